"""The verdicts of `bench.py conformance`: values and gradients of two sides, compared over all inputs.

In: ours and theirs by input. Out: a dict a row, ready for JSON: the worst figures over all inputs, and a verdict:

    agrees                  as defined, within the tolerance, on every input
    agrees after adjusting  they define it otherwise; with that difference put into ours it agrees on every input
    differs as stated       they define it otherwise, and there is nothing to put in
    DIFFERS                 anything else: the bench fails
    failed                  their function raised; the reason stands beside it

Tolerance 1e-5: of values, absolute, or relative where they exceed 1; of gradients, the largest absolute difference of
an element relative to the gradient's largest element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nouscoder_jax.bench.conformance.rows import Row

TOLERANCE = 1e-5

Answer = tuple[np.ndarray, np.ndarray | None]
"""A value and its gradient, where it has one."""


def compare(
    row: Row, ours: Callable[[str, str], Answer], theirs: Mapping[str, Answer], *, failure: str
) -> dict[str, Any]:
    """One row over the inputs of `theirs`; `ours(name, input)` computes our side."""
    found: dict[str, Any] = asdict(row)
    if failure or not theirs:
        return found | {"verdict": "failed", "failure": failure or "no answer"}
    return found | figures(row, ours, theirs)


def figures(row: Row, ours: Callable[[str, str], Answer], theirs: Mapping[str, Answer]) -> dict[str, Any]:
    """The verdict, and the worst differences from ours as defined; with the stated difference put in, where it can
    be."""
    found = {}
    for key, name in (("defined", row.objective), ("adjusted_differences", row.adjusted)):
        if name:
            found[key] = worst([_difference(ours(name, one), answer) for one, answer in theirs.items()])
    told, key = ("agrees after adjusting", "adjusted_differences") if row.adjusted else ("agrees", "defined")
    if agrees(found[key]):
        return found | {"verdict": told}
    return found | {"verdict": "differs as stated" if row.difference and not row.adjusted else "DIFFERS"}


def agrees(difference: Mapping[str, Any]) -> bool:
    """Whether the difference is within the tolerance. A NaN is not."""
    parts = [difference["value_difference_scaled"], difference["gradient_difference_relative"]]
    return all(part <= TOLERANCE for part in parts if part is not None)


def worst(differences: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The largest of each figure over inputs (of the cosine: the smallest); None where there is no gradient."""
    found = {}
    for name in differences[0]:
        values = [value for one in differences if (value := one[name]) is not None]
        found[name] = float(np.min(values) if name == "cosine" else np.max(values)) if values else None
    return found


def is_failing(row: Mapping[str, Any]) -> bool:
    """Whether a compared row should agree and does not, or could not be run."""
    return row["verdict"] in ("DIFFERS", "failed")


def _difference(ours: Answer, theirs: Answer) -> dict[str, float | None]:
    value, other = np.asarray(ours[0], np.float64), np.asarray(theirs[0], np.float64)
    largest = float(np.max(np.abs(value - other)))
    found: dict[str, float | None] = {
        "value_difference": largest,
        "value_difference_scaled": largest / max(1.0, float(np.max(np.abs(other)))),
        "gradient_difference": None,
        "gradient_difference_relative": None,
        "cosine": None,
    }
    if ours[1] is not None and theirs[1] is not None:
        found |= _gradients(np.asarray(ours[1], np.float64), np.asarray(theirs[1], np.float64))
    return found


def _gradients(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    norms = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    largest = float(np.max(np.abs(ours - theirs)))
    scale = float(np.max(np.abs(theirs)))
    product = norms[0] * norms[1]
    return {
        "gradient_difference": largest,
        "gradient_difference_relative": largest / scale if scale else largest,
        "cosine": float(np.vdot(ours, theirs)) / product if product else float(norms[0] == norms[1]),
    }
