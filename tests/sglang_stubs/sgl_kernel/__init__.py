# ruff: noqa
"""Stand-in for sgl_kernel on CPU: no compiled ops, so SGLang takes its torch-native paths."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*a, **k):
        raise NotImplementedError(f"sgl_kernel.{name} (stub)")

    return missing
