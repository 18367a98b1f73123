"""The numbers of an evaluation, each a pure function of judged samples and their problems.

In: Sample, Problem. Out: Pass@1 with its interval, also by difficulty, platform, month and context length; a paired
test of two runs. Intervals are 95 % percentile intervals of a bootstrap over problems, from a fixed seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Outcome, Problem, Rollout, Verdict

NUM_RESAMPLES = 10_000
_CHUNK = 100  # resamples at a time, so that memory is bounded by 100 numbers a problem
_SEED = 0
NOT_STATED = "not stated"
NOT_JUDGED, GIVEN_UP = "judge failure", "engine failure"
"""Outcomes of completions without a verdict: the judge failed, or the engine gave the completion up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion, judged or not.

    Example:
        Sample(problem_id="tiny/held_out/0003", passed=True, num_tokens=812, truncated=False, outcome="accepted")
    """

    problem_id: str
    passed: bool
    num_tokens: int
    """Tokens of the completion; the prompt's are not counted."""
    truncated: bool
    """Cut at the length limit."""
    outcome: str
    """The verdict's, or NOT_JUDGED, or GIVEN_UP."""
    sample_index: int = 0
    detail: str = ""
    """Why it did not pass, for people."""
    published_outcome: str = ""
    """Of LiveCodeBench's public harness; empty: it was not asked, or failed."""
    published_detail: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether it has a verdict."""
        return self.outcome not in (NOT_JUDGED, GIVEN_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval; all nan where there are no problems.

    Example:
        Estimate(mean=0.61, low=0.57, high=0.65, num_problems=454)
    """

    mean: float
    low: float
    high: float
    num_problems: int

    def __str__(self) -> str:
        return f"{self.mean:.1%} (95 % interval {self.low:.1%} to {self.high:.1%}, {self.num_problems} problems)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Pass@1 of one run, whole and in parts. A part is there only where some problem has the field.

    Example:
        Score(pass_at_1=Estimate(...), by_difficulty={"easy": Estimate(...)}, by_platform={}, by_month={},
              by_context={40960: Estimate(...)})
    """

    pass_at_1: Estimate
    by_difficulty: dict[str, Estimate]
    by_platform: dict[str, Estimate]
    by_month: dict[str, Estimate]
    """YYYY-MM of a problem's date."""
    by_context: dict[int, Estimate]
    """Tokens of a completion -> Pass@1 when every longer completion counts as failed."""

    def parts(self) -> dict[str, dict[str, Estimate]]:
        """Name of a part -> its rows; parts without rows are left out."""
        contexts = {f"{tokens:,}": estimate for tokens, estimate in self.by_context.items()}
        named = {
            "difficulty": self.by_difficulty,
            "platform": self.by_platform,
            "month": self.by_month,
            "completion tokens": contexts,
        }
        return {name: rows for name, rows in named.items() if rows}


def pass_at_k(*, num_samples: int, num_accepted: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is accepted: 1 - C(n-c, k) / C(n, k) (arXiv:2107.03374).

    Raises ValueError for k outside 1..n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"got k={k} with {num_samples} samples; k is 1 to {num_samples}")
    return 1 - math.comb(num_samples - num_accepted, k) / math.comb(num_samples, k)


def samples_of(results: Iterable[tuple[Rollout, Verdict | None]]) -> list[Sample]:
    """The samples that have a verdict; failures of the engine or the judge are none."""
    return [sample_of(rollout, verdict) for rollout, verdict in results if verdict is not None]


def sample_of(rollout: Rollout, verdict: Verdict | None, published: Verdict | None = None) -> Sample:
    """The sample of a completion; None: the engine gave it up, or the judge failed. `published`: what the public
    harness says."""
    given_up = rollout.completion.finish_reason == "abort"
    return Sample(
        problem_id=rollout.prompt.problem_id,
        sample_index=rollout.sample_index,
        passed=verdict is not None and verdict.outcome is Outcome.ACCEPTED,
        num_tokens=len(rollout.completion.token_ids),
        truncated=rollout.completion.finish_reason == "length",
        outcome=verdict.outcome.value if verdict else GIVEN_UP if given_up else NOT_JUDGED,
        detail=verdict.detail if verdict else "",
        published_outcome=published.outcome.value if published else "",
        published_detail=published.detail if published else "",
    )


def score(samples: Sequence[Sample], problems: Sequence[Problem], *, contexts: Sequence[int] = ()) -> Score:
    """All numbers of a run. Problems without a sample are in no number; a sample's problem must be in `problems`."""
    means = problem_means(samples)
    judged = [problem for problem in problems if problem.problem_id in means]
    return Score(
        pass_at_1=estimate(list(means.values())),
        by_difficulty=_by(judged, means, lambda problem: problem.difficulty),
        by_platform=_by(judged, means, lambda problem: problem.platform),
        by_month=_by(judged, means, lambda problem: problem.date[:7]),
        by_context={
            tokens: estimate(list(problem_means(samples, longest=tokens).values())) for tokens in sorted(set(contexts))
        },
    )


def problem_means(samples: Iterable[Sample], *, longest: int | None = None) -> dict[str, float]:
    """Problem id -> mean of passed over its samples; a completion of more than `longest` tokens counts as failed."""
    passed: dict[str, list[bool]] = {}
    for sample in samples:
        fits = longest is None or sample.num_tokens <= longest
        passed.setdefault(sample.problem_id, []).append(sample.passed and fits)
    return {problem_id: sum(values) / len(values) for problem_id, values in passed.items()}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value a problem, with its bootstrap interval."""
    if not values:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, num_problems=0)
    array, generator = np.asarray(values, np.float64), np.random.default_rng(_SEED)
    means = _in_chunks(lambda rows: array[generator.integers(len(array), size=(rows, len(array)))].mean(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean=math.fsum(values) / len(values), low=float(low), high=float(high), num_problems=len(values))


def parse_contexts(words: str, *, max_tokens: int) -> tuple[int, ...]:
    """The lengths of `40960,81920`. Raises UserError: no number, or more than the run's own limit."""
    try:
        lengths = tuple(int(part) for part in words.split(","))
    except ValueError as error:
        raise UserError(f"--contexts got {words!r}; expected numbers of tokens such as 40960,81920") from error
    for length in lengths:
        if not 1 <= length <= max_tokens:
            raise UserError(
                f"--contexts got {length}, but completions of this run end at {max_tokens} tokens; a row is 1 to "
                f"{max_tokens}: leave it out, or raise --max-tokens"
            )
    return lengths


def _by(problems: Sequence[Problem], means: Mapping[str, float], key: Callable[[Problem], str]) -> dict[str, Estimate]:
    groups: dict[str, list[float]] = {}
    for problem in problems:
        groups.setdefault(key(problem), []).append(means[problem.problem_id])
    named = {name: estimate(groups[name]) for name in sorted(groups) if name}
    return named | {NOT_STATED: estimate(groups[""])} if named and "" in groups else named


def _in_chunks(draw: Callable[[int], Float64[np.ndarray, " rows"]]) -> Float64[np.ndarray, " resamples"]:
    return np.concatenate([draw(_CHUNK) for _ in range(NUM_RESAMPLES // _CHUNK)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How a run differs from another on the same problems.

    Example:
        Paired(difference=Estimate(mean=0.04, ...), p_value=0.01, num_better=40, num_worse=22)
    """

    difference: Estimate
    """Mean over problems of this run's mean minus the other's."""
    p_value: float
    """Two-sided: how often signs drawn at random give a mean difference at least as large."""
    num_better: int
    num_worse: int


def check_same_problems(ours: Iterable[str], others: Iterable[str], *, other: str) -> None:
    """Raises UserError where the ids of two runs are not the same."""
    mine, theirs = set(ours), set(others)
    if mine != theirs:
        raise UserError(
            f"--compare got {other}, whose problems differ from this run's: {len(mine - theirs)} of this run are "
            f"missing there, {len(theirs - mine)} of that run are missing here, such as {min(mine ^ theirs)}; compare "
            "runs on the same problems, all of them judged"
        )


def compare(ours: Mapping[str, float], others: Mapping[str, float], *, other: str) -> Paired:
    """The paired test of two runs' means a problem (`problem_means`). Raises UserError where the problems differ."""
    check_same_problems(ours, others, other=other)
    differences = [ours[name] - others[name] for name in sorted(ours)]
    return Paired(
        difference=estimate(differences),
        p_value=sign_flip_p_value(differences),
        num_better=sum(difference > 0 for difference in differences),
        num_worse=sum(difference < 0 for difference in differences),
    )


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided permutation test of a mean of 0: over all signs where they are no more than the resamples, else over
    signs drawn at random, of which the observed ones are counted as one."""
    if not differences:
        return math.nan
    array = np.asarray(differences, np.float64)
    least = abs(array.sum()) - 1e-9  # sums of the same numbers in another order
    if 2 ** len(array) <= NUM_RESAMPLES:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(array))))
        return float(np.mean(np.abs(signs @ array) >= least))
    generator = np.random.default_rng(_SEED)
    sums = _in_chunks(lambda rows: generator.choice((-1.0, 1.0), size=(rows, len(array))) @ array)
    return float((1 + np.sum(np.abs(sums) >= least)) / (1 + NUM_RESAMPLES))
