"""What `bench.py pipeline` generates and judges: lengths, verdicts and seconds of verification, drawn.

In: a length limit and a seed. Out: `Traffic`: the `Sample` that a problem and a seed give, the same whenever it is
asked for.

No recording of a large model exists here. A problem's solve rate is Beta(a, a) with a = 0.35: of groups of 8, half have
unequal rewards. Lengths are log-normal around a median that grows with difficulty, from 0.22 (always solved) to 0.8
(never) of the limit, with sigma 0.5, and are cut at the limit: half of it in the mean, about one completion in seven
cut. Verification takes 1 to 3 s, uniformly; a cut completion holds no program and takes none.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

NUM_PROBLEMS = 4096

_SOLVE_RATE_SHAPE = 0.35
_EASY_MEDIAN, _HARD_MEDIAN = 0.22, 0.8
_SIGMA = 0.5
_VERIFY_S = (1.0, 3.0)
_SAMPLED = 4000
"""Completions that stand for all lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion and what the judge does with it.

    Example:
        Sample(num_tokens=9120, cut=False, accepted=True, verify_s=1.8)
    """

    num_tokens: int
    cut: bool
    """It reached the limit without an end: no program."""
    accepted: bool
    verify_s: float


@runtime_checkable
class Traffic(Protocol):
    """Problems, and the completions that they get."""

    problem_ids: tuple[str, ...]

    def sample(self, problem_id: str, seed: int) -> Sample:
        """The completion of this problem and seed."""
        ...


class DrawnTraffic:
    """Drawn from the distributions above."""

    def __init__(self, *, max_tokens: int, seed: int) -> None:
        """`max_tokens`: where completions are cut."""
        self.problem_ids = tuple(f"drawn/{number:04d}" for number in range(NUM_PROBLEMS))
        self._max_tokens, self._seed = max_tokens, seed
        self._solve_rate = functools.cache(self._draw_solve_rate)
        self.sample = functools.lru_cache(maxsize=1 << 16)(self._draw)

    def _draw_solve_rate(self, problem_id: str) -> float:
        return random.Random(f"{self._seed} {problem_id}").betavariate(_SOLVE_RATE_SHAPE, _SOLVE_RATE_SHAPE)

    def _draw(self, problem_id: str, seed: int) -> Sample:
        drawn = random.Random(f"{self._seed} {problem_id} {seed}")
        solve_rate = self._solve_rate(problem_id)
        median = _EASY_MEDIAN * (_HARD_MEDIAN / _EASY_MEDIAN) ** (1 - solve_rate)
        length = self._max_tokens * median * math.exp(_SIGMA * drawn.gauss())
        cut = length >= self._max_tokens
        accepted = drawn.random() < solve_rate
        return Sample(
            num_tokens=max(1, min(round(length), self._max_tokens)),
            cut=cut,
            accepted=accepted and not cut,
            verify_s=0.0 if cut else drawn.uniform(*_VERIFY_S),
        )


@functools.lru_cache(maxsize=8)
def lengths(traffic: Traffic) -> tuple[int, ...]:
    """Tokens of a few thousand completions."""
    problems = traffic.problem_ids
    return tuple(traffic.sample(problems[i % len(problems)], i).num_tokens for i in range(_SAMPLED))
