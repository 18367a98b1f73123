"""Arguments and results of a judged function: from JSON values and back.

In: a call such as `Solution.merge([ListNode],_)->ListNode` (nouscoder_jax/data/signature.py), JSON values, the names of
the program. Out: the function, its arguments, its result as plain JSON values. Runs inside the sandbox; standard
library only.

    _           as it is                    ListNode, TreeNode   linked list, tree by levels
    {int}       keys of objects are ints    [KIND]               a list of KIND
    {int?}      keys are text and are found by ints too, where nothing says which they were
    0           as a result: argument 0 after the call, for functions that change it in place
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class ListNode:
    """What platforms give a program under this name."""

    def __init__(self, val: object = 0, next: object = None) -> None:
        self.val, self.next = val, next


class TreeNode:
    """What platforms give a program under this name."""

    def __init__(self, val: object = 0, left: object = None, right: object = None) -> None:
        self.val, self.left, self.right = val, left, right


class Call:
    """A function's name and the kinds of its arguments and its result."""

    def __init__(self, text: str) -> None:
        self.fn_name, mark, rest = text.partition("(")
        arguments, _, result = rest.partition(")->")
        self.arguments = arguments.split(",") if mark and arguments else []
        self.result = result or "_"

    def names(self) -> dict[str, object]:
        """Classes that a program of this call may use without defining them."""
        kinds = " ".join([*self.arguments, self.result])
        return {cls.__name__: cls for cls in (ListNode, TreeNode) if cls.__name__ in kinds}

    def function(self, namespace: dict[str, Any]) -> Callable[..., object]:
        """The function that the program defines, or the method of its class `Solution`, whichever is asked for."""
        owner, dot, name = self.fn_name.rpartition(".")
        cls = namespace.get(owner or "Solution")
        if dot:
            if not hasattr(cls, name) and callable(namespace.get(name)):
                return namespace[name]
            return getattr(namespace[owner](), name)
        if name not in namespace and isinstance(cls, type) and hasattr(cls, name):
            return getattr(cls(), name)
        return namespace[name]

    def made(self, values: list[object], namespace: dict[str, Any]) -> list[object]:
        """The arguments of JSON values."""
        kinds = self.arguments + ["_"] * (len(values) - len(self.arguments))
        return [_made(kind, value, namespace) for kind, value in zip(kinds, values)]  # noqa: B905

    def plain(self, result: object, arguments: list[object]) -> object:
        """The result as plain JSON values."""
        if self.result == "0" and arguments:
            return _plain(self.arguments[0] if self.arguments else "_", arguments[0])
        return _plain(self.result, result)


def _made(kind: str, value: Any, namespace: dict[str, Any]) -> object:
    if kind.startswith("[") and isinstance(value, list):
        return [_made(kind[1:-1], item, namespace) for item in value]
    if kind in ("{int}", "{int?}"):
        return _with_int_keys(value, may_be_text=kind == "{int?}")
    if kind == "ListNode" and isinstance(value, list):
        node = None
        for item in reversed(value):
            made = namespace[kind](item)
            made.next = node
            node = made
        return node
    if kind == "TreeNode" and isinstance(value, list):
        nodes = [None if item is None else namespace[kind](item) for item in value]
        children = iter(nodes[1:])
        for node in filter(None, nodes):
            node.left, node.right = next(children, None), next(children, None)
        return nodes[0] if nodes else None
    return value


class TextOrIntKeys(dict[Any, Any]):
    """An object whose keys are text, and are found and changed by the integers that they spell."""

    def _own(self, key: object) -> object:
        there = dict.__contains__
        return str(key) if type(key) is int and not there(self, key) and there(self, str(key)) else key

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, self._own(key))

    def __getitem__(self, key: object) -> Any:
        return dict.__getitem__(self, self._own(key))

    def __setitem__(self, key: object, value: object) -> None:
        dict.__setitem__(self, self._own(key), value)

    def __delitem__(self, key: object) -> None:
        dict.__delitem__(self, self._own(key))

    def get(self, key: object, default: Any = None) -> Any:
        return dict.get(self, self._own(key), default)

    def setdefault(self, key: object, default: Any = None) -> Any:
        return dict.setdefault(self, self._own(key), default)

    def pop(self, key: object, *default: Any) -> Any:
        return dict.pop(self, self._own(key), *default)


def _with_int_keys(value: object, *, may_be_text: bool) -> object:
    if isinstance(value, list):
        return [_with_int_keys(item, may_be_text=may_be_text) for item in value]
    if isinstance(value, dict):
        items = {key: _with_int_keys(item, may_be_text=may_be_text) for key, item in value.items()}
        return TextOrIntKeys(items) if may_be_text else {_int_key(key): item for key, item in items.items()}
    return value


def _int_key(key: str) -> object:
    return int(key) if key.removeprefix("-").isdecimal() and str(int(key)) == key else key


def _plain(kind: str, value: Any) -> object:
    if kind.startswith("[") and isinstance(value, (list, tuple)):
        return [_plain(kind[1:-1], item) for item in value]
    if kind == "ListNode" and not isinstance(value, (list, tuple)):
        values = []
        while value is not None:
            values.append(canonical(value.val))
            value = value.next
        return values
    if kind == "TreeNode" and not isinstance(value, (list, tuple)):
        values, level = [], [value]
        while any(node is not None for node in level):
            values += [None if node is None else canonical(node.val) for node in level]
            level = [child for node in level if node is not None for child in (node.left, node.right)]
        while values and values[-1] is None:
            values.pop()
        return values
    return canonical(value)


def canonical(value: Any) -> object:
    """The value as plain JSON types, by its type and never by its own `__eq__`: tuples become lists.

    Subclasses (namedtuple, defaultdict, IntEnum) are read through the methods of their built-in base. Keys of
    dictionaries become text as in JSON. NumPy's scalars and arrays are their values; Fraction and Decimal are integers,
    or {"__fraction__": [numerator, denominator]}. Raises TypeError for anything that JSON has no word for, a set for
    example.
    """
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is float or kind is str:
        return value
    if issubclass(kind, (list, tuple)):
        base = list if issubclass(kind, list) else tuple
        return [canonical(item) for item in base.__iter__(value)]
    if issubclass(kind, dict):
        return {_key(key): canonical(item) for key, item in dict.items(value)}
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, str):
        return str.__str__(value)
    return _other_number(value)


def _other_number(value: Any) -> object:
    kind = type(value)
    for module, name in (("fractions", "Fraction"), ("decimal", "Decimal")):
        base: Any = getattr(sys.modules.get(module), name, None)
        if isinstance(base, type) and issubclass(kind, base):
            if module == "decimal" and not base.is_finite(value):
                return float(value)
            top, bottom = base.as_integer_ratio(value)
            return canonical(top) if bottom == 1 else {"__fraction__": [canonical(top), canonical(bottom)]}
    numpy = sys.modules.get("numpy")
    for name, method in (("generic", "item"), ("ndarray", "tolist")):
        base = getattr(numpy, name, None)
        if isinstance(base, type) and issubclass(kind, base):
            plain = getattr(base, method)(value)
            if type(plain) is kind:  # NumPy's longest floats are items of themselves
                if getattr(value, "imag", 0):
                    break
                plain = base.__float__(value)
            return canonical(plain)
    raise TypeError(f"a value of type {kind.__name__} was returned; JSON has no such value")


def _key(key: Any) -> str:
    if key is None or key is True or key is False:
        return {None: "null", True: "true", False: "false"}[key]
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)
    if issubclass(kind, int):
        return int.__repr__(key)
    if issubclass(kind, float):
        return float.__repr__(key)
    try:
        plain = _other_number(key)
    except TypeError:
        plain = key
    if plain is None or isinstance(plain, (bool, int, float, str)):
        return _key(plain)
    raise TypeError(f"a dictionary with a key of type {kind.__name__} was returned; JSON has no such key")
