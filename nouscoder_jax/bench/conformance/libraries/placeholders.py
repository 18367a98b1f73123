"""Stands in, at import time only, for packages that a library imports beside the functions which are compared.

In: names of packages that are not installed, and of packages whose `__init__` would import half a training system.
Out: imports of both succeed. Standard library only: runs in the libraries' own processes.

An absent package becomes a module whose every attribute is an empty object: enough for `import ray` and
`@ray.remote`, useless for arithmetic, so that a loss that touched it would fail rather than give a number. A package
"without its init" is the real folder with the real modules, of which only `__init__.py` is not run.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any


def install(*, absent: Sequence[str], without_init: Sequence[str]) -> list[str]:
    """From now on `absent` and what is below them are placeholders; `without_init` are packages as described above.
    Returns how a reader is told of them."""
    sys.meta_path.insert(0, _Finder(frozenset(absent), frozenset(without_init)))
    return [*absent, *(f"{name} (init)" for name in without_init)]


class _Empty:
    """What a placeholder's attribute is: false, callable, a decorator that changes nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *args: Any, **options: Any) -> Any:
        decorates = len(args) == 1 and not options and callable(args[0])
        return args[0] if decorates else _Empty()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty()

    def __getitem__(self, _: Any) -> _Empty:
        return _Empty()

    __or__ = __ror__ = __getitem__

    def __bool__(self) -> bool:
        return False

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class _Placeholder(types.ModuleType):
    __path__ = ()
    __getattr__ = _Empty.__getattr__


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, absent: frozenset[str], without_init: frozenset[str]) -> None:
        self._absent, self._without_init = absent, without_init

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._without_init and fullname.partition(".")[0] not in self._absent:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        if fullname in self._without_init:
            real = importlib.machinery.PathFinder.find_spec(fullname, path)
            spec.submodule_search_locations = list(real.submodule_search_locations or []) if real else []
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return (types.ModuleType if spec.name in self._without_init else _Placeholder)(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is run."""
