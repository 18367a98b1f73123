"""Arrays that a caller hands to losses, corrections and advantages: what is wrong with one, by its name.

In: an argument's name and its array, of NumPy or jax, also while jax traces. Out: a TypeError or ValueError that says
what it got, what is expected and how to get that. Shapes and dtypes are known while jax traces; values are looked at
only where there are any, so that a compiled function does not get longer. Does not import jax.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Kind = Literal["float", "bool", "int", "number"]
_WORDS = {"float": "floats", "bool": "booleans", "int": "integers", "number": "numbers or booleans"}
_DTYPES = {"float": ("float", "bfloat"), "bool": ("bool",), "int": ("int", "uint")}
_DTYPES["number"] = sum(_DTYPES.values(), ())
_FIXES = {
    "float": "; of other numbers: {name}.astype('float32')",
    "bool": "; of a mask of numbers: mask > 0",
    "int": "; of whole numbers: {name}.astype('int32')",
    "number": "; of other objects: {name}.astype('float32')",
}


def check_tokens(where: Any, segment_ids: Any = None, *, all_without_where: bool = False, **floats: Any) -> None:
    """Checks arrays "rows time": `floats`, all of the first one's shape, a mask and the segment of every token.

    None is an argument that was not given; the first has to be, and `where` too unless `all_without_where`. Raises
    TypeError, ValueError.
    """
    (first, array), *others = floats.items()
    check(first, array, kind="float", axes="rows time")
    for name, other in others:
        if other is not None:
            check(name, other, kind="float", axes="rows time", shape=array.shape, like=first)
    if where is not None or not all_without_where:
        check("where", where, kind="bool", axes="rows time", shape=array.shape, like=first)
    if segment_ids is not None:
        check("segment_ids", segment_ids, kind="int", axes="rows time", shape=array.shape, like=first)
        check_contiguous("segment_ids", segment_ids, where)


def check(
    name: str, array: Any, *, kind: Kind, axes: str, shape: Sequence[int] | None = None, like: str | None = None
) -> None:
    """Raises TypeError where `array` is no array or not of the kind, ValueError where it has not the axes ("rows time")
    or, if given, the shape, which is that of the argument `like`."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        fix = f"; of a sequence: np.asarray({name})" if isinstance(array, Sequence) else ""
        fix = "; to count all: np.ones(shape, bool)" if array is None and kind == "bool" else fix
        raise TypeError(f"{name} is a {type(array).__name__}, expected an array of {_WORDS[kind]}, {axes!r}{fix}")
    got = f"{name} is {array.dtype} {tuple(array.shape)}"
    if not str(array.dtype).startswith(_DTYPES[kind]):
        raise TypeError(f"{got}, expected {_WORDS[kind]}, {axes!r}{_FIXES[kind].format(name=name)}")
    if shape is not None and tuple(array.shape) != tuple(shape):
        raise ValueError(f"{got}, expected {axes!r} {tuple(shape)}, the shape of {like}; give each place its own value")
    if len(array.shape) != len(axes.split()):
        fix = f"; of one row: {name}[None]" if len(array.shape) == len(axes.split()) - 1 else ""
        raise ValueError(f"{got}, expected {axes!r}{fix}")


def check_contiguous(name: str, segment_ids: Any, where: Any = None) -> None:
    """Raises ValueError where an id of "rows time" has counted tokens in more than one piece of a row. Pieces without
    one, such as padding between sequences, may have any id."""
    if not has_values(segment_ids, where):
        return
    ids, where = np.asarray(segment_ids), None if where is None else np.asarray(where)
    for number, row in enumerate(ids):
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1])[: len(row)])
        pieces = row[starts]
        if where is not None and len(pieces):
            pieces = pieces[np.logical_or.reduceat(where[number], starts)]
        if len(np.unique(pieces)) < len(pieces):
            values, counts = np.unique(pieces, return_counts=True)
            raise ValueError(
                f"{name} comes back to id {values[counts > 1][0]} in row {number}, expected each sequence in one "
                "piece; sort the row's tokens by id, or give the pieces ids of their own"
            )


def has_values(*arrays: Any) -> bool:
    """Whether all of them can be looked at here: none is traced or spread over processes."""
    jax = sys.modules.get("jax")
    return all(
        (jax is None or not isinstance(array, jax.core.Tracer)) and getattr(array, "is_fully_addressable", True)
        for array in arrays
    )
