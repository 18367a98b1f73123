"""From the next problems to the groups of one batch: generate, judge, filter, replace.

In: a stream of problems, an engine, a judge. Out: `Collected`, everything that one step drew and what became of it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import ProblemStream
from nouscoder_jax.evaluation import Judge
from nouscoder_jax.experience.filters import GroupFate, judge_group
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.sampler import cancel, sample_group
from nouscoder_jax.types import Experience, JudgeError, Problem, Prompt, Rollout, Verdict
from nouscoder_jax.verifier.extract import extract_program


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one draw of one problem.

    Example:
        Group(group_id=17, experiences=(Experience(...), ...), fate=GroupFate.EQUAL)
    """

    group_id: int
    experiences: tuple[Experience, ...]
    fate: GroupFate
    """USED, or why it is not trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one step drew, and where the stream of problems stands after it.

    Example:
        Collected(step=3, groups=(Group(...), ...), next_group_id=72, stream_state={...})
    """

    step: int
    groups: tuple[Group, ...]
    next_group_id: int
    stream_state: dict[str, Any]
    judge_failures: tuple[str, ...]
    """Messages of failures of the judge, one a rollout that is not trainable because of it."""

    @property
    def used(self) -> tuple[Group, ...]:
        """Groups that make the batch."""
        return tuple(group for group in self.groups if group.fate is GroupFate.USED)

    def with_used(self, used: Sequence[tuple[Experience, ...]]) -> Collected:
        """The same with other experiences in the groups that make the batch."""
        others = iter(used)
        groups = (
            replace(group, experiences=next(others)) if group.fate is GroupFate.USED else group for group in self.groups
        )
        return replace(self, groups=tuple(groups))

    @property
    def experiences(self) -> Iterator[Experience]:
        """All rollouts of the step."""
        return (experience for group in self.groups for experience in group.experiences)

    @property
    def fates(self) -> Counter[str]:
        """Groups by what became of them."""
        return Counter(group.fate.value for group in self.groups)


class Collector:
    """Draws the batch of one step after another."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        engine: Engine,
        judge: Judge,
        problems: Sequence[Problem],
        prompts: Mapping[str, Prompt],
        decode: Callable[[Sequence[int]], str],
        stream: ProblemStream,
        next_group_id: int,
        num_processes: int,
        timer: StageTimer,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        """`problems` are those that `stream` numbers, each with a prompt; `on_progress(stage, done, total)`."""
        self._config = config
        self._engine = engine
        self._judge = judge
        self._problems = problems
        self._prompts = prompts
        self._decode = decode
        self._stream = stream
        self._next_group_id = next_group_id
        self._num_groups = config.rollout.groups_per_step // num_processes
        self._timer = timer
        self._on_progress = on_progress
        self._judge_failures: list[str] = []

    async def collect(self, step: int) -> Collected:
        """Draws waves of groups until the batch is full or `experience.max_draws_per_batch` times its size is drawn.

        Raises EngineError. A judge failure only takes its own rollout out.
        """
        groups: list[Group] = []
        self._judge_failures = []
        lacking = self._num_groups
        max_groups = self._num_groups * self._config.experience.max_draws_per_batch
        while lacking > 0 and len(groups) < max_groups:
            groups += await self._wave(min(lacking, max_groups - len(groups)))
            lacking = self._num_groups - sum(group.fate is GroupFate.USED for group in groups)
        return Collected(
            step=step,
            groups=tuple(groups),
            next_group_id=self._next_group_id,
            stream_state=self._stream.get_state(),
            judge_failures=tuple(self._judge_failures),
        )

    async def _wave(self, num_groups: int) -> list[Group]:
        rollout = self._config.rollout
        sampling: list[tuple[asyncio.Task[Rollout], ...]] = []
        drawn: list[Problem] = []
        for _ in range(num_groups):
            problem = self._problems[next(self._stream)]
            drawn.append(problem)
            sampling.append(
                sample_group(
                    self._engine,
                    self._prompts[problem.problem_id],
                    group_id=self._next_group_id,
                    group_size=rollout.group_size,
                    temperature=rollout.temperature,
                    top_p=rollout.top_p,
                    top_k=rollout.top_k,
                    max_completion_tokens=rollout.max_completion_tokens,
                    seed=self._config.seed,
                    decode=self._decode,
                    extract=extract_program,
                )
            )
            self._next_group_id += 1
        done: Counter[str] = Counter()
        total = num_groups * rollout.group_size

        async def follow(problem: Problem, task: asyncio.Task[Rollout]) -> tuple[Rollout, Verdict | None]:
            with self._timer.stage("generate"):
                finished = await task
            done["generate"] += 1
            self._on_progress("generate", done["generate"], total)
            with self._timer.stage("verify"):
                verdict = await self._verdict(problem, finished)
            done["verify"] += 1
            self._on_progress("verify", done["verify"], total)
            return finished, verdict

        tasks = [task for group in sampling for task in group]
        try:
            judged = await asyncio.gather(
                *(follow(problem, task) for problem, group in zip(drawn, sampling, strict=True) for task in group)
            )
        finally:
            await cancel(tasks)
        size = rollout.group_size
        return [self._group(judged[i : i + size]) for i in range(0, len(judged), size)]

    async def _verdict(self, problem: Problem, rollout: Rollout) -> Verdict | None:
        try:
            return await self._judge.judge(problem, rollout.program)
        except JudgeError as error:
            self._judge_failures.append(str(error))
            return None

    def _group(self, judged: Sequence[tuple[Rollout, Verdict | None]]) -> Group:
        rollouts, verdicts = zip(*judged, strict=True)
        experiences, fate = judge_group(rollouts, verdicts, config=self._config.experience)
        return Group(group_id=rollouts[0].group_id, experiences=experiences, fate=fate)


def step_metrics(collected: Collected, *, policy_version: int) -> dict[str, float]:
    """What the drawn rollouts say about the policy; names in nouscoder_jax/metrics/names.py."""
    experiences = list(collected.experiences)
    judged = [e for e in experiences if e.reward is not None]
    lengths = [len(e.rollout.completion.token_ids) for e in experiences]
    ages = [policy_version - e.rollout.completion.policy_version for g in collected.used for e in g.experiences]
    solved = [_solved(e) for e in judged]
    return {
        "reward/mean": _mean([e.reward for e in judged if e.reward is not None]),
        "solved_share": _mean(solved),
        "truncated_share": _mean([e.rollout.completion.finish_reason == "length" for e in experiences]),
        "completion_tokens/mean": _mean(lengths),
        "completion_tokens/max": max(lengths, default=0),
        "groups/used": len(collected.used),
        "groups/dropped": len(collected.groups) - len(collected.used),
        "groups/all_solved": sum(all(map(_solved, g.experiences)) for g in collected.groups),
        "groups/none_solved": sum(not any(map(_solved, g.experiences)) for g in collected.groups),
        "staleness/mean": _mean(ages) if ages else 0.0,
        "staleness/max": max(ages, default=0),
    }


def _solved(experience: Experience) -> bool:
    return experience.verdict is not None and experience.verdict.outcome.value == "accepted"


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values) if values else math.nan
