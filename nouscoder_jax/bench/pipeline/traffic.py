"""What `bench.py pipeline` generates and judges: lengths, verdicts and seconds of verification, drawn or recorded.

In: a length limit and a seed, or the folder of a run. Out: `Traffic`: the `Sample` that a problem and a seed give, the
same whenever it is asked for.

No recording of a large model exists here, so the default is drawn. A problem's solve rate is Beta(a, a) with a = 0.35:
of groups of 8, half have unequal rewards. Lengths are log-normal around a median that grows with difficulty, from 0.22
(always solved) to 0.8 (never) of the limit, with sigma 0.5, and are cut at the limit: half of it in the mean, about one
completion in seven cut. Verification takes 1 to 3 s, uniformly; a cut completion holds no program and takes none.
"""

from __future__ import annotations

import functools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nouscoder_jax.config import UserError
from nouscoder_jax.run_folder import RunFolder

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

    told: str
    """For people: where the figures come from."""
    problem_ids: tuple[str, ...]

    def sample(self, problem_id: str, seed: int) -> Sample:
        """The completion of this problem and seed."""
        ...


class DrawnTraffic:
    """Drawn from the distributions above."""

    def __init__(self, *, max_tokens: int, seed: int) -> None:
        """`max_tokens`: where completions are cut."""
        self.problem_ids = tuple(f"drawn/{number:04d}" for number in range(NUM_PROBLEMS))
        self.told = (
            f"lengths drawn: log-normal, median {_EASY_MEDIAN:g} (easy) to {_HARD_MEDIAN:g} (hard) of the limit of "
            f"{max_tokens:,} tokens, sigma {_SIGMA:g}, cut there; solve rates Beta({_SOLVE_RATE_SHAPE:g}, "
            f"{_SOLVE_RATE_SHAPE:g}); verification {_VERIFY_S[0]:g} to {_VERIFY_S[1]:g} s. Not a recording"
        )
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


class RecordedTraffic:
    """Drawn from the completions that a run has kept: a problem's own, each as likely as another."""

    def __init__(self, run_dir: Path) -> None:
        """Reads rollouts/step-*.jsonl of a run's folder. Raises UserError where there are none."""
        folder = RunFolder(path=run_dir)
        files = [folder.rollouts_of(step) for step in folder.rollout_steps()]
        if not files:
            raise UserError(f"--rollouts got {run_dir}; it holds no rollouts/step-*.jsonl, give the folder of a run")
        self._samples: dict[str, list[Sample]] = {}
        for file in files:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    kept = json.loads(line)
                    sample = _recorded(kept)
                    self._samples.setdefault(str(kept["problem_id"]), []).append(sample)
                except (ValueError, TypeError, KeyError) as error:
                    raise UserError(f"{file}, line {number}: no rollout of a run ({error!r})") from error
        self.problem_ids = tuple(sorted(self._samples))
        number = sum(map(len, self._samples.values()))
        self.told = (
            f"{number:,} completions of {len(self._samples):,} problems recorded in {run_dir}; a verification takes "
            "its slowest test's CPU time for each test that was run"
        )

    def sample(self, problem_id: str, seed: int) -> Sample:
        """One of the problem's recorded completions."""
        return random.Random(f"{problem_id} {seed}").choice(self._samples[problem_id])


@functools.lru_cache(maxsize=8)
def lengths(traffic: Traffic) -> tuple[int, ...]:
    """Tokens of a few thousand completions."""
    problems = traffic.problem_ids
    return tuple(traffic.sample(problems[i % len(problems)], i).num_tokens for i in range(_SAMPLED))


def _recorded(line: Any) -> Sample:
    """A line of a run's rollouts (loop/stored.py). The run keeps the slowest test's CPU time: an upper bound for each
    of the tests that were run, which are those passed and the first that failed."""
    verdict = line["verdict"] or {"outcome": "", "tests_passed": 0, "tests_total": 0, "cpu_s": 0.0}
    num_tests = min(verdict["tests_passed"] + 1, verdict["tests_total"])
    return Sample(
        num_tokens=max(1, int(line["num_tokens"])),
        cut=line["finish_reason"] == "length",
        accepted=verdict["outcome"] == "accepted",
        verify_s=float(verdict["cpu_s"]) * num_tests,
    )
