"""One group from its draw to its verdicts: its completions are generated, each judged as it finishes.

In: an engine, a judge, a journal, a `Draw`. Out: a task that ends with a `Group`. A finished completion goes to the
judge at once; its slot in the engine writes another one meanwhile. A finished group goes to the journal before anybody
sees it; one that is there already is not generated again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import ProblemStream
from nouscoder_jax.experience.filters import DropReason, classify_group
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.extract import Extract
from nouscoder_jax.rollout.sampler import cancel, sample_group, sampling_of
from nouscoder_jax.types import Experience, JudgeError, Problem, Prompt, Rollout, Verdict
from nouscoder_jax.verifier.judge import Judge


class Draw(NamedTuple):
    """A problem that has been drawn.

    Example:
        Draw(group_id=17, problem_index=203)
    """

    group_id: int
    """Number of the draw: unique in a run."""
    problem_index: int
    """Place in the list of training problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where drawing stands: what a resumed run goes on from.

    Example:
        Position(next_group_id=72, stream_state={...}, pending=(Draw(group_id=70, problem_index=3),))
    """

    next_group_id: int
    stream_state: dict[str, Any] | None
    """Of the problem stream; None: at its start."""
    pending: tuple[Draw, ...]
    """Drawn and not handed over: they come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A group as it is generated and judged, before anything is made of it.

    Example:
        Judged(rollouts=(Rollout(...), ...), verdicts=(Verdict(...), None, ...), judge_failures=("the engine is gone",))
    """

    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict | None, ...]
    """None: the judge failed."""
    judge_failures: tuple[str, ...]


@runtime_checkable
class Journal(Protocol):
    """Keeps finished groups (loop/journal.py)."""

    def started_after(self, draw: Draw) -> int | None:
        """Trained steps that the draw's group was started after; None where it is not kept."""
        ...

    def has_later(self, group_id: int) -> bool:
        """Whether a group of a higher number is kept."""
        ...

    def write_group(self, draw: Draw, judged: Judged, *, started_after: int) -> None:
        """Keeps a finished group. Raises OSError."""
        ...

    def read_group(self, draw: Draw, prompt: Prompt | None, *, newest: int) -> Judged | None:
        """The kept group of a draw, with tokens of versions up to `newest`; None: there is none. `prompt` None: each
        rollout's own is kept with it."""
        ...


class NoJournal:
    """A Journal that keeps nothing: for simulations that do not crash."""

    def started_after(self, draw: Draw) -> int | None:
        """Nothing is kept."""
        return None

    def has_later(self, group_id: int) -> bool:
        """Nothing is kept."""
        return False

    def write_group(self, draw: Draw, judged: Judged, *, started_after: int) -> None:
        """Keeps nothing."""

    def read_group(self, draw: Draw, prompt: Prompt | None, *, newest: int) -> Judged | None:
        """Nothing is kept."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one draw of one problem.

    Example:
        Group(draw=Draw(17, 203), started_after=2, experiences=(Experience(...), ...), judge_failures=(),
              drop_reason=DropReason.EQUAL)
    """

    draw: Draw
    started_after: int
    """Trained steps when its first token was asked for."""
    experiences: tuple[Experience, ...]
    drop_reason: DropReason | None
    """Why it is not trained on; None where it is."""
    judge_failures: tuple[str, ...]
    """Messages of failures of the judge, one a rollout that is not trainable because of it."""

    @property
    def group_id(self) -> int:
        """Number of the draw."""
        return self.draw.group_id

    @property
    def num_tokens(self) -> int:
        """Completion tokens."""
        return sum(len(experience.rollout.completion.token_ids) for experience in self.experiences)


def as_stale(group: Group) -> Group:
    """The same group, which comes too late for its batch and is not trained on."""
    idle = tuple(replace(experience, trainable=False) for experience in group.experiences)
    return replace(group, drop_reason=DropReason.STALE, experiences=idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one step drew, and where drawing stood when it was handed over.

    Example:
        Collected(step=3, groups=(Group(...), ...), position=Position(...), num_in_flight=128, waiting=(32, 9120))
    """

    step: int
    groups: tuple[Group, ...]
    position: Position
    num_in_flight: int
    """Rollouts drawn and not handed over with this or an earlier step."""
    waiting: tuple[int, int]
    """Of these, the ones that are judged, and their tokens."""

    @property
    def used(self) -> tuple[Group, ...]:
        """Groups that make the batch."""
        return tuple(group for group in self.groups if group.drop_reason is None)

    @property
    def experiences(self) -> Iterator[Experience]:
        """All rollouts of the step."""
        return (experience for group in self.groups for experience in group.experiences)

    @property
    def judge_failures(self) -> tuple[str, ...]:
        """Messages of failures of the judge."""
        return tuple(message for group in self.groups for message in group.judge_failures)

    def with_used(self, used: Sequence[tuple[Experience, ...]]) -> Collected:
        """The same with other experiences in the groups that make the batch."""
        others = iter(used)
        groups = (
            replace(group, experiences=next(others)) if group.drop_reason is None else group for group in self.groups
        )
        return replace(self, groups=tuple(groups))


class Signal:
    """Wakes everyone who waits. Nothing is lost between a look and a `wait` without an await in between."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Something has changed."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self) -> None:
        """Returns at the next `fire`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Drawer:
    """Draws problems in order; those that an earlier session left pending come first."""

    def __init__(self, stream: ProblemStream, position: Position) -> None:
        """Goes to `position` of the run."""
        self._stream = stream
        if position.stream_state is not None:
            stream.set_state(position.stream_state)
        self._next_group_id = position.next_group_id
        self._pending = list(position.pending)

    def draw(self) -> Draw:
        """The next problem."""
        if self._pending:
            return self._pending.pop(0)
        draw = Draw(group_id=self._next_group_id, problem_index=next(self._stream))
        self._next_group_id += 1
        return draw

    @property
    def num_pending(self) -> int:
        """Draws of an earlier session that are still to be drawn again."""
        return len(self._pending)

    def position(self, in_flight: Sequence[Draw]) -> Position:
        """Where drawing stands, with the draws that are not handed over yet."""
        return Position(
            next_group_id=self._next_group_id,
            stream_state=self._stream.get_state(),
            pending=tuple(sorted([*in_flight, *self._pending])),
        )


class GroupMaker:
    """Starts groups."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        engine: Engine,
        judge: Judge,
        journal: Journal,
        problems: Sequence[Problem],
        prompts: Mapping[str, Prompt],
        decode: Callable[[Sequence[int]], str],
        extract: Extract,
        timer: StageTimer,
        meter: SlotMeter,
        on_finished: Callable[[str], None],
    ) -> None:
        """`problems` are those that draws number, each with a prompt; `on_finished(stage)` is told of each rollout that
        has passed `generate` or `verify`."""
        self._config = config
        self.engine = engine
        self._judge = judge
        self._journal = journal
        self._problems = problems
        self._prompts = prompts
        self._decode = decode
        self._extract = extract
        self._timer = timer
        self._meter = meter
        self._on_finished = on_finished
        self.num_generating = 0
        """Rollouts whose completion is not finished."""
        self.signal = Signal()
        """Fires when a completion is finished."""

    def started_after(self, draw: Draw, *, now: int) -> int:
        """Trained steps that a group of this draw is started after: `now`, or those of the group in the journal."""
        after = self._journal.started_after(draw)
        return now if after is None else after

    def start(self, draw: Draw, *, started_after: int) -> asyncio.Task[Group]:
        """A task that ends with the group, which is in the journal then. Unless it was there before, all its requests
        are made before this returns, in order of sample_index.

        The task raises EngineError, OSError; a judge failure only takes its own rollout out. Cancelling it cancels
        everything.
        """
        if self._journal.started_after(draw) is not None:
            making = self._read_or_make(draw, started_after)
        else:
            making = self._make(draw, started_after, self._sample(draw))
        return asyncio.create_task(making, name=f"group {draw.group_id}")

    async def read(self, draw: Draw) -> Group | None:
        """The draw's group from the journal; None where there is none that can be used."""
        prompt, newest = self._prompts[self._problem(draw).problem_id], self.engine.policy_version
        after = self._journal.started_after(draw)
        judged = await asyncio.to_thread(self._journal.read_group, draw, prompt, newest=newest)
        return None if judged is None or after is None else self._classified(draw, judged, after)

    async def _read_or_make(self, draw: Draw, started_after: int) -> Group:
        return await self.read(draw) or await self._make(draw, started_after, self._sample(draw))

    def _classified(self, draw: Draw, judged: Judged, started_after: int) -> Group:
        experiences, drop_reason = classify_group(judged.rollouts, judged.verdicts, config=self._config.experience)
        return Group(
            draw=draw,
            started_after=started_after,
            experiences=experiences,
            drop_reason=drop_reason,
            judge_failures=judged.judge_failures,
        )

    def _problem(self, draw: Draw) -> Problem:
        return self._problems[draw.problem_index]

    def _sample(self, draw: Draw) -> tuple[asyncio.Task[Rollout], ...]:
        config = self._config.rollout
        sampling = sample_group(
            self.engine,
            self._prompts[self._problem(draw).problem_id],
            sampling_of(config, seed=self._config.seed),
            group_id=draw.group_id,
            group_size=config.group_size,
            decode=self._decode,
            extract=self._extract,
        )
        self.num_generating += len(sampling)
        for task in sampling:
            task.add_done_callback(self._generated)
        return sampling

    def _generated(self, task: asyncio.Task[Rollout]) -> None:
        self.num_generating -= 1
        self.signal.fire()

    async def _make(self, draw: Draw, started_after: int, sampling: tuple[asyncio.Task[Rollout], ...]) -> Group:
        failures: list[str] = []
        problem = self._problem(draw)
        following = [asyncio.create_task(self._follow(problem, task, failures)) for task in sampling]
        try:
            judged = await asyncio.gather(*following)
        finally:
            for task in following:
                task.cancel()
            await cancel(sampling)
            await asyncio.gather(*following, return_exceptions=True)
        rollouts, verdicts = zip(*judged, strict=True)
        whole = Judged(rollouts=rollouts, verdicts=verdicts, judge_failures=tuple(failures))
        await asyncio.to_thread(self._journal.write_group, draw, whole, started_after=started_after)
        return self._classified(draw, whole, started_after)

    async def _follow(
        self, problem: Problem, task: asyncio.Task[Rollout], failures: list[str]
    ) -> tuple[Rollout, Verdict | None]:
        with self._timer.stage("generate"), self._meter.slot():
            rollout = await task
        self._on_finished("generate")
        verdict = None
        with self._timer.stage("verify"):
            try:
                verdict = await self._judge.judge(problem, rollout.program)
            except JudgeError as error:
                failures.append(str(error))
        self._on_finished("verify")
        return rollout, verdict
