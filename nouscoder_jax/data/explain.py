"""How a problem is judged, in words: what scripts/verify.py --explain prints.

In: Problem. Out: lines for people; the last ones are what its reader derived from prose or mended.
"""

from __future__ import annotations

from collections.abc import Sequence

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Problem


def explain(problems: Sequence[Problem], problem_id: str) -> list[str]:
    """The lines of one problem. Raises UserError: there is no such problem."""
    problem = next((one for one in problems if one.problem_id == problem_id), None)
    if problem is None:
        raise UserError(f"--explain got {problem_id!r}, which none of the {len(problems)} problems has; give an id")
    comparison = problem.comparison
    kind = comparison.kind
    if kind == "float":
        kind += f", absolute {comparison.abs_tolerance:g} or relative {comparison.rel_tolerance:g}"
    seconds, mib = problem.time_limit_s or "default", problem.memory_limit_mib or "default"
    return [
        f"problem: {problem.problem_id}, {len(problem.tests)} tests",
        f"asks for: {f'the function {problem.fn_name}' if problem.fn_name else 'a program that reads stdin'}",
        f"limits: {seconds} CPU seconds, {mib} MiB",
        f"comparison: {kind}; letters compare {'without' if comparison.ignore_case else 'with'} case",
        *(f"derived: {line}" for line in problem.derived),
        *([] if problem.derived else ["derived: nothing"]),
    ]
