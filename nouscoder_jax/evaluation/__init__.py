"""From a policy to the numbers of a table: what it solves of the held-out problems, and how sure that is.

In: problems, an engine, a judge. Out: EvaluationResult (what was drawn and judged), Score and Paired (numbers with
intervals), the JSON, table and picture of a report.
"""

from nouscoder_jax.evaluation.evaluate import (
    EvaluationResult,
    ProblemResult,
    evaluate,
    evaluate_model,
    select_problems,
    summarize,
)
from nouscoder_jax.evaluation.score import pass_at_k

__all__ = [
    "EvaluationResult",
    "ProblemResult",
    "evaluate",
    "evaluate_model",
    "pass_at_k",
    "select_problems",
    "summarize",
]
