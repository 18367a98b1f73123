# ruff: noqa
"""Stand-in for triton on a machine with no GPU: decorators pass functions through, nothing is ever compiled."""

import importlib.abc, importlib.machinery, sys, types

__version__ = "3.8.0"


class _Any:
    """Callable, subscriptable, subclassable placeholder; used as a decorator it returns the function."""

    def __init__(self, name="triton"):
        self.__dict__["_n"] = name

    def __getattr__(self, n):
        if n.startswith("__"):
            raise AttributeError(n)
        return _make(self._n, n)

    def __call__(self, *a, **k):
        if len(a) == 1 and callable(a[0]) and not k and not isinstance(a[0], _Any):
            return a[0]
        return _Any(self._n + "()")

    def __getitem__(self, i):
        return self

    def __mro_entries__(self, bases):
        return (object,)

    def __or__(self, o):
        return self

    __ror__ = __or__

    def __bool__(self):
        return False

    def __iter__(self):
        return iter(())

    def __repr__(self):
        return f"<stub {self._n}>"


def _make(mod, n):
    if n == "active":  # triton.runtime.driver.active: what real triton does with no GPU
        raise RuntimeError("0 active drivers ([]). There should only be one.")
    if n == "cdiv":
        return lambda a, b: -(a // -b)
    if n == "next_power_of_2":
        return lambda x: 1 << (x - 1).bit_length() if x > 0 else 1
    if n[0].isupper():
        return type(n, (), {"__init__": lambda self, *a, **k: None})
    return _Any(f"{mod}.{n}")


class _Mod(types.ModuleType):
    __path__ = []

    def __getattr__(self, n):
        if n.startswith("__"):
            raise AttributeError(n)
        v = _make(self.__name__, n)
        setattr(self, n, v)
        return v


class _F(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("triton."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return _Mod(spec.name)

    def exec_module(self, m):
        pass


sys.meta_path.append(_F())


def __getattr__(n):
    if n.startswith("__"):
        raise AttributeError(n)
    return _make("triton", n)
