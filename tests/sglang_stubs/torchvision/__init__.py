# ruff: noqa
"""Text-only stand-in for torchvision (its wheel needs a CUDA torch).

SGLang and transformers import names from it at start-up for vision models; none is called for text models.
"""

import enum, importlib.abc, importlib.machinery, sys, types

__version__ = "0.0.0"


class _Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "InterpolationMode":
            v = enum.Enum(
                name,
                {
                    k: k.lower()
                    for k in ("NEAREST", "NEAREST_EXACT", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
                },
            )
        elif name[0].isupper():
            v = type(name, (), {})
        else:

            def v(*a, **k):
                raise NotImplementedError("torchvision is not installed")

        setattr(self, name, v)
        return v


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        m = _Stub(spec.name)
        return m

    def exec_module(self, module):
        pass


sys.meta_path.append(_Finder())
import torchvision.transforms, torchvision.transforms.functional, torchvision.io  # noqa
