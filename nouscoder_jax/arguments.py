"""Arrays that a caller hands to the losses and advantages: what is wrong with one, by its name.

In: an argument's name and its array, of NumPy or jax, also while jax traces. Out: a TypeError or ValueError that says
what it got, what it expects and how to get that. Shapes and dtypes are known while jax traces; values are looked at
only where there are any, so that a compiled function does not get longer. Does not import jax.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Kind = Literal["float", "bool", "int", "number"]
_WORDS = {"float": "floats", "bool": "booleans", "int": "integers", "number": "numbers or booleans"}
_FIXES = {"float": "", "bool": "; of another mask: mask > 0", "int": "; of whole numbers: .astype(int)", "number": ""}


def check(name: str, array: Any, *, kind: Kind, axes: str, shape: Sequence[int] | None = None) -> None:
    """Raises TypeError where `array` is no array or not of the kind, ValueError where it has not the axes ("rows time")
    or, if given, the shape."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(f"{name} is a {type(array).__name__}, expected an array of {_WORDS[kind]}, {axes!r}")
    got = f"{name} is {array.dtype} {tuple(array.shape)}"
    if not _is(kind, str(array.dtype)):
        raise TypeError(f"{got}, expected {_WORDS[kind]}, {axes!r}{_FIXES[kind]}")
    if len(array.shape) != len(axes.split()) or (shape is not None and tuple(array.shape) != tuple(shape)):
        wanted = f" {tuple(shape)}" if shape is not None else ""
        raise ValueError(f"{got}, expected {axes!r}{wanted}")


def check_contiguous(name: str, segment_ids: Any) -> None:
    """Raises ValueError where the ids "rows time" come back to one that they had left."""
    if not has_values(segment_ids):
        return
    for number, row in enumerate(np.asarray(segment_ids)):
        starts = row[np.flatnonzero(np.diff(row, prepend=row[:1] - 1))]
        values, counts = np.unique(starts, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"{name} comes back to id {values[counts > 1][0]} in row {number}, expected each sequence in one "
                "piece; sort the row or give the pieces ids of their own"
            )


def has_values(array: Any) -> bool:
    """Whether the array is there and not only traced."""
    jax = sys.modules.get("jax")
    return jax is None or not isinstance(array, jax.core.Tracer)


def _is(kind: Kind, dtype: str) -> bool:
    is_float, is_int = dtype.startswith(("float", "bfloat")), dtype.startswith(("int", "uint"))
    return {"float": is_float, "int": is_int, "bool": dtype == "bool", "number": is_float or is_int or dtype == "bool"}[
        kind
    ]
