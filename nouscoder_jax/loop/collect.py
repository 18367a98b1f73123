"""From draws to batches: which groups are generated when, and which of them make the batch of a step.

In: a Drawer, a GroupMaker. Out: `Collected`, everything that one step drew and what became of it. Two ways, one for
each answer to the question whether generation may run ahead of training:

    WaveCollector      on-policy: draws for a step once its weights are there; seeded runs repeat bit for bit
    StreamCollector    ahead: a new group whenever the engine has room, as long as none becomes too old to train on
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.experience.filters import group_class
from nouscoder_jax.loop.groups import Collected, Draw, Drawer, Group, GroupMaker, as_stale
from nouscoder_jax.metrics.names import DROP_SHARES, OUTCOME_SHARES
from nouscoder_jax.types import UNKNOWN_VERSION, EngineError, Experience


@runtime_checkable
class Collector(Protocol):
    """Hands over one batch after another."""

    async def take(self, step: int) -> Collected:
        """The batch of `step`, once there is one. Raises EngineError, OutageError."""
        ...

    def trained(self, step: int) -> None:
        """`step` is trained, and the engine has its weights."""
        ...

    def in_flight(self) -> int:
        """Rollouts drawn and not handed over."""
        ...

    async def close(self) -> None:
        """Cancels what is under way."""
        ...


def make_collector(
    config: TrainConfig,
    drawer: Drawer,
    maker: GroupMaker,
    *,
    first_step: int,
    on_progress: Callable[[str, int, int], None],
) -> Collector:
    """The collector that the config asks for, after `first_step` trained steps; `on_progress(stage, done, total)`."""
    size = _BatchSize(
        num_groups=config.rollout.groups_per_step,
        max_groups=config.rollout.groups_per_step * config.experience.max_draws_per_batch,
        group_size=config.rollout.group_size,
    )
    ahead = config.rollout.max_staleness
    if ahead == 0:
        return WaveCollector(drawer, maker, size=size)
    return StreamCollector(
        drawer,
        maker,
        size=size,
        ahead=ahead,
        first_step=first_step,
        num_steps=config.num_steps,
        on_progress=on_progress,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _BatchSize:
    num_groups: int
    """Groups that fill the batch."""
    max_groups: int
    """Groups drawn for it at most, dropped ones included."""
    group_size: int


class WaveCollector:
    """Draws as many groups as the batch still lacks, waits for all of them, and again until it is full."""

    def __init__(self, drawer: Drawer, maker: GroupMaker, *, size: _BatchSize) -> None:
        """Nothing is drawn before the first `take`."""
        self._drawer, self._maker, self._size = drawer, maker, size

    async def take(self, step: int) -> Collected:
        """Draws the batch of `step`."""
        groups: list[Group] = []
        lacking = self._size.num_groups
        while lacking > 0 and len(groups) < self._size.max_groups:
            groups += await self._wave(min(lacking, self._size.max_groups - len(groups)), started_after=step - 1)
            lacking = self._size.num_groups - sum(group.drop_reason is None for group in groups)
        return Collected(
            step=step,
            groups=tuple(groups),
            position=self._drawer.position(()),
            num_in_flight=self.in_flight(),
            waiting=(0, 0),
        )

    def trained(self, step: int) -> None:
        """Nothing waits for it."""

    def in_flight(self) -> int:
        """Between two batches, what an earlier session left pending."""
        return self._drawer.num_pending * self._size.group_size

    async def close(self) -> None:
        """Nothing goes on between two batches."""

    async def _wave(self, num_groups: int, *, started_after: int) -> list[Group]:
        tasks = [self._maker.start(self._drawer.draw(), started_after=started_after) for _ in range(num_groups)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)


class StreamCollector:
    """Starts a group whenever the engine has room for its requests and no batch could come too late for it.

    A group started after s trained steps may train up to step s + 1 + ahead. So no more groups are under way than those
    batches take; a batch takes the finished groups that were started first; and it waits only where a group still under
    way could not be trained in time otherwise. Nothing is thrown away for being old, and short completions are not
    preferred to long ones.
    """

    def __init__(
        self,
        drawer: Drawer,
        maker: GroupMaker,
        *,
        size: _BatchSize,
        ahead: int,
        first_step: int,
        num_steps: int,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        """Draws from the first `take` on."""
        self._drawer, self._maker, self._size = drawer, maker, size
        self._ahead, self._num_steps = ahead, num_steps
        self._trained = self._taken = first_step
        self._on_progress = on_progress
        self._signal = maker.signal
        self._running: dict[asyncio.Task[Group], Draw] = {}
        self._ready: dict[Draw, Group] = {}
        self._dropped: list[Group] = []
        self._deadlines: dict[Draw, int] = {}
        """The step that each unconsumed draw trains in at the latest."""
        self._failure: BaseException | None = None
        self._feeder: asyncio.Task[None] | None = None

    async def take(self, step: int) -> Collected:
        """The finished groups that were started first, once there are enough."""
        if self._feeder is None:
            self._feeder = asyncio.create_task(self._feed(), name="feeder")
            self._feeder.add_done_callback(self._note_failure)
        self._drop_stale(step)
        while not self._complete(step):
            self._on_progress("collect", min(len(self._ready), self._size.num_groups), self._size.num_groups)
            await self._signal.wait()
            if self._failure is not None:
                raise self._failure
            self._drop_stale(step)
        self._on_progress("collect", self._size.num_groups, self._size.num_groups)
        chosen = self._in_turn(self._ready)[: self._size.num_groups]
        groups = [*self._dropped, *(self._ready.pop(draw) for draw in chosen)]
        for draw in chosen:
            del self._deadlines[draw]
        self._dropped = []
        self._taken = step
        self._signal.fire()
        return Collected(
            step=step,
            groups=tuple(sorted(groups, key=lambda group: group.group_id)),
            position=self._drawer.position(sorted(self._deadlines)),
            num_in_flight=self.in_flight(),
            waiting=(
                len(self._ready) * self._size.group_size,
                sum(group.num_tokens for group in self._ready.values()),
            ),
        )

    def _drop_stale(self, step: int) -> None:
        """Groups that come too late for every batch, as a resumed run with another bound has them, are not trained
        on."""
        stale = [draw for draw in self._ready if self._deadlines[draw] < step]
        for draw in stale:
            del self._deadlines[draw]
            self._dropped.append(as_stale(self._ready.pop(draw)))
        if stale:
            self._signal.fire()  # others are drawn in their place

    def trained(self, step: int) -> None:
        """Later batches may be drawn now."""
        self._trained = step
        self._signal.fire()

    def in_flight(self) -> int:
        """Rollouts that are generated, judged, or wait for their batch."""
        num_groups = len(self._deadlines) + len(self._dropped) + self._drawer.num_pending
        return num_groups * self._size.group_size

    async def close(self) -> None:
        """Cancels all groups; they are drawn again by a resumed run."""
        tasks = [*self._running, *([self._feeder] if self._feeder else [])]
        await _cancel(tasks)

    def _complete(self, step: int) -> bool:
        """Whether the batch can be made: full, or as many draws as it may take; and nobody is left behind."""
        drawn = len(self._ready) + len(self._dropped)
        if len(self._ready) < self._size.num_groups and drawn < self._size.max_groups:
            return False
        left = self._in_turn(self._deadlines.keys() - set(self._in_turn(self._ready)[: self._size.num_groups]))
        return all(
            step + 1 + place // self._size.num_groups <= self._deadlines[draw] for place, draw in enumerate(left)
        )

    def _in_turn(self, draws: Iterable[Draw]) -> list[Draw]:
        """Those started first come first; of an earlier session's groups, those that it has finished."""
        return sorted(draws, key=lambda draw: (self._deadlines[draw], draw))

    def _has_room(self) -> bool:
        """Whether a group that starts now could be trained in time, and its requests find a slot soon."""
        last = min(self._trained + 1 + self._ahead, self._num_steps)
        num_batches = last - self._taken
        waiting = self._maker.num_generating >= self._maker.engine.num_slots + self._size.group_size
        drawn = len(self._deadlines) + len(self._dropped)
        in_time = len(self._deadlines) < num_batches * self._size.num_groups
        return in_time and drawn < num_batches * self._size.max_groups and not waiting

    async def _feed(self) -> None:
        """Starts groups for ever."""
        while True:
            while self._has_room():
                draw = self._drawer.draw()
                after = self._maker.started_after(draw, now=self._trained)
                self._deadlines[draw] = min(after + 1 + self._ahead, self._num_steps)
                task = self._maker.start(draw, started_after=after)
                self._running[task] = draw
                task.add_done_callback(self._finished)
            await self._signal.wait()

    def _finished(self, task: asyncio.Task[Group]) -> None:
        draw = self._running.pop(task)
        self._note_failure(task)
        if not task.cancelled() and task.exception() is None:
            group = task.result()
            if group.drop_reason is None:
                self._ready[draw] = group
            else:
                self._dropped.append(group)
                del self._deadlines[draw]
        self._signal.fire()

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._signal.fire()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels what still runs and returns when all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def check_versions(collected: Collected, *, newest: int) -> None:
    """Raises EngineError for a token of a version that this run has not exported; a rollout that came with a score may
    be of unknown ones."""
    for experience in collected.experiences:
        rollout = experience.rollout
        if rollout.score is not None and rollout.completion.policy_version == UNKNOWN_VERSION:
            continue
        if strange := [version for version in rollout.completion.token_versions if not 0 <= version <= newest]:
            raise EngineError(
                f"group {rollout.group_id}, sample {rollout.sample_index} (problem {rollout.prompt.problem_id}) has "
                f"tokens of policy version {strange[0]}; this run has exported versions 0 to {newest}"
            )


def step_metrics(collected: Collected, *, policy_version: int) -> dict[str, float]:
    """What the drawn rollouts say about the policy; names in nouscoder_jax/metrics/names.py."""
    experiences = list(collected.experiences)
    lengths = [len(e.rollout.completion.token_ids) for e in experiences]
    dropped = [group_class(group.drop_reason) for group in collected.groups]
    batches = [collected.step - 1 - group.started_after for group in collected.used if _age_is_known(group)]
    known = [version for version in _versions_of(collected) if version != UNKNOWN_VERSION]
    pulled = any(e.rollout.score is not None for e in experiences)
    return {
        "reward/mean": _mean([e.reward for e in experiences if e.reward is not None]),
        **({} if pulled else _verdict_metrics(collected, experiences)),
        "programs/rules_differ": sum(e.rollout.rules_differ for e in experiences),
        "completion_tokens/mean": _mean(lengths),
        "completion_tokens/max": max(lengths, default=0),
        "groups/used": len(collected.used),
        "groups/dropped": len(collected.groups) - len(collected.used),
        **{name: _mean([reason == why for why in dropped]) for reason, name in DROP_SHARES.items()},
        **_ages("staleness/batches", batches),
        **_ages("staleness/versions", [policy_version - version for version in known]),
    }


def _versions_of(collected: Collected) -> list[int]:
    """Of each rollout that makes the batch, the oldest version of its tokens."""
    return [e.rollout.completion.policy_version for group in collected.used for e in group.experiences]


def _age_is_known(group: Group) -> bool:
    """Whether anybody says which weights wrote it."""
    return any(e.rollout.completion.policy_version != UNKNOWN_VERSION for e in group.experiences)


def _verdict_metrics(collected: Collected, experiences: Sequence[Experience]) -> dict[str, float]:
    """How completions ended and the judge decided. Of rollouts that came with scores nothing is known about that."""
    judged = [e for e in experiences if e.verdict is not None]
    return {
        "solved_share": _mean([_solved(e) for e in judged]),
        **{name: _mean([_outcome(e) == reason for e in judged]) for reason, name in OUTCOME_SHARES.items()},
        "truncated_share": _mean([e.rollout.completion.finish_reason == "length" for e in experiences]),
        "groups/all_solved": sum(all(map(_solved, g.experiences)) for g in collected.groups),
        "groups/none_solved": sum(not any(map(_solved, g.experiences)) for g in collected.groups),
    }


def _ages(name: str, ages: Sequence[int]) -> dict[str, float]:
    """Nothing where there is no batch."""
    return {f"{name}_mean": _mean(ages), f"{name}_max": max(ages)} if ages else {}


def told(groups: Iterable[Group]) -> str:
    """What became of groups, in words: "3 equal, 1 overlong"."""
    found = Counter(group_class(group.drop_reason) for group in groups)
    return ", ".join(f"{number} {name}" for name, number in sorted(found.items()))


def _solved(experience: Experience) -> bool:
    return _outcome(experience) == "accepted"


def _outcome(experience: Experience) -> str | None:
    return None if experience.verdict is None else experience.verdict.outcome.value


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values) if values else math.nan
