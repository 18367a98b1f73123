"""The verdicts of `bench.py conformance`: values and gradients of two sides, compared over all inputs.

In: ours and theirs by input. Out: the worst figures over all inputs, and a verdict:

    agrees                  as defined, within the tolerance, on every input
    agrees after adjusting  they define it otherwise; with that difference put into ours it agrees on every input
    differs as stated       they define it otherwise, and there is nothing to put in
    DIFFERS                 anything else: the bench fails
    failed                  their function raised; the reason stands beside it

Tolerance 1e-5: of values, absolute, or relative where they exceed 1; of gradients, the largest absolute difference of
an element relative to the gradient's largest element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nouscoder_jax.bench.conformance.rows import Row

TOLERANCE = 1e-5

Answer = tuple[np.ndarray, np.ndarray | None]
"""A value and its gradient, where it has one."""


def figures(row: Row, ours: Callable[[str, str], Answer], theirs: Mapping[str, Answer]) -> dict[str, Any]:
    """The verdict over the inputs of `theirs`, and the worst differences from ours as defined; with the stated
    difference put in, where it can be. `ours(name, input)` computes our side."""
    found: dict[str, Any] = {}
    for key, name in (("defined", row.objective), ("adjusted_differences", row.adjusted)):
        if name:
            each = [difference(ours(name, one), answer) for one, answer in theirs.items()]
            found[key] = {figure: _worst(figure, [one[figure] for one in each]) for figure in each[0]}
    told, key = ("agrees after adjusting", "adjusted_differences") if row.adjusted else ("agrees", "defined")
    if agrees(found[key]):
        return found | {"verdict": told}
    return found | {"verdict": "differs as stated" if row.difference and not row.adjusted else "DIFFERS"}


def agrees(worst: Mapping[str, Any]) -> bool:
    """Whether the differences are within the tolerance. A NaN is not."""
    parts = [worst["value_difference_scaled"], worst["gradient_difference_relative"]]
    return all(part <= TOLERANCE for part in parts if part is not None)


def difference(ours: Answer, theirs: Answer) -> dict[str, float | None]:
    """On one input; None where there is no gradient."""
    values = _float64(ours[0], theirs[0])
    largest = float(np.max(np.abs(values[0] - values[1])))
    found: dict[str, float | None] = dict.fromkeys(("gradient_difference", "gradient_difference_relative", "cosine"))
    found |= {
        "value_difference": largest,
        "value_difference_scaled": largest / max(1.0, float(np.max(np.abs(values[1])))),
    }
    if ours[1] is not None and theirs[1] is not None:
        mine, other = _float64(ours[1], theirs[1])
        largest, scale = float(np.max(np.abs(mine - other))), float(np.max(np.abs(other)))
        norms = float(np.linalg.norm(mine)), float(np.linalg.norm(other))
        product = norms[0] * norms[1]
        found["gradient_difference"] = largest
        found["gradient_difference_relative"] = largest / scale if scale else largest
        found["cosine"] = float(np.vdot(mine, other)) / product if product else float(norms[0] == norms[1])
    return found


def _worst(figure: str, values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float((np.min if figure == "cosine" else np.max)(there)) if there else None


def _float64(*arrays: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(one, np.float64) for one in arrays]
