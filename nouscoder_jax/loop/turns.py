"""The host's side of a run, turn after turn: what is written when, so that a kill at any moment loses nothing.

In: batches of a Collector; a Learner, which has the weights; Checkpoints. Out: rollouts, metrics, checkpoints, and a
journal of what is not in a checkpoint yet. One turn, each line on the disk before the next:

    the batch, in the journal already
    rollouts/step-N.jsonl
    the update; new weights to the engine
    the law of conservation; an evaluation now and then; a line of metrics.jsonl
    a checkpoint now and then, written in the background
    the journal lets go of what a complete checkpoint holds

A run that goes on from a checkpoint does the turns after it again, from the journal, and writes the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.collect import Collector, check_versions, step_metrics, told
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.pipeline import run_steps
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.stored import rollout_line
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import DivergedError, DriftError, EngineError
from nouscoder_jax.verifier.breaker import OutageError

Metrics = dict[str, float]


@runtime_checkable
class Learner(Protocol):
    """The side of a run that has weights."""

    def prepare(self, collected: Collected) -> Collected:
        """The batch with its advantages. Runs in a thread."""
        ...

    async def update(self, collected: Collected) -> Metrics:
        """Trains on the batch, counts versions in the run's Progress, and returns once the engine has the new weights.
        Nothing where the batch is empty. Raises EngineError, DriftError, DivergedError, UserError."""
        ...

    async def evaluate(self) -> Metrics:
        """Held-out pass@1 of the weights as they are."""
        ...

    async def save(self, pass_at_1: float | None) -> None:
        """Has a checkpoint of weights and Progress written in the background. Raises UserError."""
        ...


@runtime_checkable
class Checkpoints(Protocol):
    """What there is to know of checkpoints."""

    def busy(self) -> bool:
        """Whether one is still being written."""
        ...

    def check(self) -> None:
        """Raises UserError where one could not be written."""
        ...

    def latest_step(self) -> int | None:
        """Step of the newest complete one."""
        ...


class Turns:
    """The turns of one run."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        progress: Progress,
        journal: Journal,
        folder: RunFolder,
        learner: Learner,
        checkpoints: Checkpoints,
        write: Callable[[Metrics], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`write` takes the metrics of a step, `say` lines for people."""
        self._config, self.progress, self._journal, self._folder = config, progress, journal, folder
        self._learner, self._checkpoints = learner, checkpoints
        self._write, self._say = write, say
        self._clock = clock
        self._started = clock() - progress.seconds
        self._finished_version = progress.policy_version
        """Policy version after the last finished step: with another one, the weights are no step's."""

    @property
    def seconds(self) -> float:
        """Wall seconds of all sessions of the run."""
        return self._clock() - self._started

    async def begin(self) -> None:
        """Step 0 of a new run: an evaluation and a checkpoint of the weights that it starts from."""
        metrics = {"step": 0.0} | await self._learner.evaluate()
        self._write(metrics | self.progress.metrics(group_size=self._config.rollout.group_size))
        await self._save(_measured(metrics))

    async def run(self, collector: Collector, *, stopping: asyncio.Event) -> None:
        """Turns until the last step or until `stopping`. What ends it early leaves the finished steps in a checkpoint,
        or in the journal.

        Raises OutageError, EngineError, DriftError, DivergedError, UserError, ConservationError, OSError.
        """
        try:
            await run_steps(
                collector,
                self._turn,
                first_step=self.progress.step,
                num_steps=self._config.num_steps,
                stopping=stopping,
            )
        except (OutageError, EngineError, DriftError, DivergedError, UserError):
            with contextlib.suppress(UserError):  # the first failure is the one to tell
                await self._save_new_steps()
            raise
        await self._save_new_steps()

    async def _turn(self, collected: Collected) -> None:
        progress, group_size = self.progress, self._config.rollout.group_size
        collected = await asyncio.to_thread(self._learner.prepare, collected)
        check_versions(collected, newest=progress.policy_version)
        metrics = {"step": float(collected.step)} | step_metrics(collected, policy_version=progress.policy_version)
        lines = [rollout_line(collected.step, e, g.drop_reason) for g in collected.groups for e in g.experiences]
        await asyncio.to_thread(self._folder.write_rollouts, collected.step, lines)
        updated = await self._learner.update(collected)
        self._tell(collected, trained=bool(updated))
        progress.count(collected, group_size=group_size)
        self._finished_version = progress.policy_version
        metrics |= updated | progress.metrics(group_size=group_size)
        if self._evaluates(collected.step):
            metrics |= await self._learner.evaluate()
        self._write(metrics)
        await self._save_now_and_then(_measured(metrics))
        await asyncio.to_thread(self._journal.prune, self._checkpoints.latest_step() or 0)

    def _tell(self, collected: Collected, *, trained: bool) -> None:
        if not trained:
            self._say(
                f"step {collected.step}: no update: all {len(collected.groups)} groups were dropped "
                f"({told(collected.groups)}); the weights stay"
            )
        for message in collected.judge_failures[:1]:
            self._say(
                f"step {collected.step}: the judge failed on {len(collected.judge_failures)} rollouts, which are not "
                f"trained on; the first: {message}"
            )

    def _evaluates(self, step: int) -> bool:
        every = self._config.evaluation.every_steps
        return step == self._config.num_steps or bool(every and step % every == 0)

    async def _save_now_and_then(self, pass_at_1: float | None) -> None:
        """A checkpoint where one is due. While an earlier one is still being written, training goes on instead: the
        journal has what a checkpoint would hold. Only the weights that measured best, and the last, wait for it: no
        journal has them."""
        config, step = self._config.checkpoint, self.progress.step
        is_last = step == self._config.num_steps
        best = self.progress.best_pass_at_1
        is_best = pass_at_1 is not None and (len(best) < config.keep_best or pass_at_1 > min(best, default=1.0))
        busy = self._checkpoints.busy()
        if not busy:
            self._checkpoints.check()
        if not (is_last or is_best or step % config.every_steps == 0):
            return
        if busy and not (is_last or is_best):
            self._say(f"step {step}: no checkpoint: an earlier one is still being written; the journal has the step")
            return
        await self._save(pass_at_1)

    async def _save(self, pass_at_1: float | None) -> None:
        progress, keep_best = self.progress, self._config.checkpoint.keep_best
        if pass_at_1 is not None:
            progress.best_pass_at_1 = sorted([*progress.best_pass_at_1, pass_at_1], reverse=True)[:keep_best]
        progress.seconds = self.seconds
        await self._learner.save(pass_at_1)

    async def _save_new_steps(self) -> None:
        """A checkpoint of the last finished step, unless it has one or the weights are between two steps."""
        progress = self.progress
        is_whole = progress.policy_version == self._finished_version
        unsaved = is_whole and progress.step > (self._checkpoints.latest_step() or 0)
        if unsaved:
            await self._save(None)


def rewind(folder: RunFolder, journal: Journal, progress: Progress, *, step: int) -> None:
    """Takes away what an earlier session has written of steps after `step`, where the run goes on; it comes again."""
    folder.drop_rollouts_after(step)
    journal.settle(progress.position)


def _measured(metrics: Metrics) -> float | None:
    """Held-out pass@1; None where it was not measured, or on no problem."""
    pass_at_1 = metrics.get("held_out/pass_at_1", math.nan)
    return None if math.isnan(pass_at_1) else pass_at_1


def record(progress: Progress) -> dict[str, Any]:
    """What a checkpoint keeps of Progress: JSON values."""
    return dict(vars(progress))
