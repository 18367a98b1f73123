"""Groups that others have generated and scored: batches pulled from an Atropos server instead of drawn here.

In: an Atropos server, the run's journal, where it stands. Out: `Collected`, as the other collectors make it. A group is
in the journal before anything is made of it, so that a resumed run finds all that the server has handed over. The
engine of the run evaluates; environments generate, with the weights that the run exports (RUN_DIR/weights) or that its
servers have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.experience.filters import DropReason, classify_group
from nouscoder_jax.loop.groups import Collected, Draw, Group, Journal, Judged, Position, as_stale
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.atropos import (
    AtroposServer,
    GroupRules,
    MalformedGroupError,
    ScoredSequence,
    read_group,
    unused_fields,
)
from nouscoder_jax.rollout.sglang_calls import RefusedError, ServerLostError
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import UNKNOWN_VERSION, Completion, Experience, Prompt, Rollout

POLL_S = 1.0
"""Seconds between two questions for a batch."""
TELL_S = 60.0
"""Seconds without a batch after which the run says what it waits for."""
LAST_BATCH_S = 60.0
"""Seconds that the end of a run waits for a batch on its way."""
_ELSEWHERE = -1
"""In place of the number of a training problem."""


class PulledGroups:
    """The groups that a server hands over, each kept in the journal."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        journal: Journal,
        *,
        decode: Callable[[Sequence[int]], str],
        vocab_size: int,
        policy_version: Callable[[], int],
        timer: StageTimer,
        say: Callable[[str], None],
    ) -> None:
        """`policy_version` gives the newest that the run has exported."""
        self._config, self._folder, self._journal = config, folder, journal
        self._decode, self.policy_version, self._timer, self._say = decode, policy_version, timer, say
        rollout = config.rollout
        self._server = AtroposServer(rollout.source_url, outage_limit_s=rollout.outage_limit_s, say=say)
        self._rules = GroupRules(
            group_size=rollout.group_size,
            vocab_size=vocab_size,
            max_tokens=min(config.experience.row_tokens, config.context_tokens),
            temperature=rollout.temperature,
            needs_logprobs=config.loss.old_logprobs == "behavior" or config.loss.correction != "none",
        )
        self._told: set[str] = set()
        self._asking: asyncio.Task[list[Group] | None] | None = None

    async def register(self, *, step: int) -> None:
        """Makes the run the server's trainer after `step` trained steps. Raises EngineError."""
        config, rollout = self._config, self._config.rollout
        await self._server.register_trainer(
            batch_size=rollout.groups_per_step * rollout.group_size,
            max_tokens=self._rules.max_tokens,
            weights_dir=str(self._folder.weights),
            step=step,
            num_steps=config.num_steps,
        )

    async def close(self) -> None:
        """Closes the connections, once a batch that the server hands over is in the journal."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking}, timeout=LAST_BATCH_S)
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._server.close()

    async def read(self, draw: Draw) -> Group | None:
        """A group that was pulled before; None where the journal has none that can be used."""
        after = self._journal.started_after(draw)
        if after is None:
            return None
        judged = await asyncio.to_thread(self._journal.read_group, draw, None, newest=self.policy_version())
        return None if judged is None else self._classified(draw, judged, after)

    async def pull(self, first: int, *, trained_steps: int) -> list[Group]:
        """The groups of the server's next batch, numbered from `first`, once it has one. Raises MalformedGroupError for
        one that cannot be trained on, when the others are in the journal; EngineError: the server is gone."""
        waited = 0.0
        with self._timer.stage("pull"):
            while True:
                # The server forgets what it hands over: whoever cancels this does not cancel that.
                self._asking = asyncio.create_task(self._ask(first, trained_steps), name="batch of the server")
                if (groups := await asyncio.shield(self._asking)) is not None:
                    return groups
                if waited >= TELL_S:
                    waited = 0.0
                    await self._tell_waiting()
                await asyncio.sleep(POLL_S)
                waited += POLL_S

    async def _ask(self, first: int, trained_steps: int) -> list[Group] | None:
        """The groups of a batch, in the journal; None: the server has none."""
        try:
            raw = await self._server.batch()
        except (RefusedError, ServerLostError) as error:
            self._say(f"Atropos: {error}; registering again; a batch that it was about to hand over may be lost")
            await self.register(step=trained_steps)
            return None
        if raw is None:
            return None
        groups, refused = [], None
        for one in raw:
            self._tell_unused(one)
            try:
                sequences = await asyncio.to_thread(read_group, one, self._rules)
            except MalformedGroupError as error:
                kept = await self._refuse(one, error)
                refused = refused or kept
                continue
            if not self._is_ours(sequences, one):
                continue
            draw = Draw(first + len(groups), _ELSEWHERE)
            judged = await asyncio.to_thread(self._judged, draw, sequences, environment=one.get("env_id"))
            after = max(0, trained_steps - self._batches_behind(judged))
            await asyncio.to_thread(self._journal.write_group, draw, judged, started_after=after)
            groups.append(self._classified(draw, judged, after))
        if refused is not None:
            raise refused
        return groups or None

    def lost(self, draw: Draw) -> Group:
        """What stands for a group that the journal has lost: its rollouts cannot be generated again."""
        self._say(f"journal: group {draw.group_id} came from an environment and is lost; its rollouts are quarantined")
        gone = Completion(token_ids=(), behavior_logprobs=(), finish_reason="abort", policy_version=0)
        experiences = tuple(
            Experience(
                rollout=Rollout(
                    group_id=draw.group_id,
                    sample_index=index,
                    prompt=Prompt(problem_id="lost", token_ids=()),
                    completion=gone,
                    text="",
                    program=None,
                ),
                verdict=None,
                reward=None,
                advantage=0.0,
                trainable=False,
            )
            for index in range(self._config.rollout.group_size)
        )
        return Group(
            draw=draw, started_after=0, experiences=experiences, drop_reason=DropReason.ABORTED, judge_failures=()
        )

    async def _tell_waiting(self) -> None:
        waiting, needed = await self._server.queue_size(), self._config.rollout.groups_per_step
        self._say(
            f"Atropos: waiting for groups: {waiting} of {needed} that make a batch"
            + (
                f"; their sizes do not add up to {needed * self._rules.group_size} sequences"
                if waiting >= needed
                else f"; an environment of ours: python scripts/atropos.py --config CONFIG --url {self._server.url}"
            )
        )

    def _is_ours(self, sequences: Sequence[ScoredSequence], raw: dict[str, Any]) -> bool:
        """Whether the run has exported what wrote it; where nobody says, it is taken to have."""
        newest = self.policy_version()
        strange = [one.policy_version for one in sequences if not UNKNOWN_VERSION <= one.policy_version <= newest]
        if strange:
            self._say(
                f"Atropos: a group of environment {raw.get('env_id')} is of policy version {strange[0]}; this run has "
                f"exported 0 to {newest}: left out"
            )
        return not strange

    async def _refuse(self, raw: dict[str, Any], error: MalformedGroupError) -> MalformedGroupError:
        """The same error, which says where the group is kept."""
        folder = self._folder.path / "refused"
        path = folder / f"group-{len(list(folder.glob('*'))):06d}.json"

        def write() -> None:
            folder.mkdir(exist_ok=True)
            path.write_text(json.dumps(raw), encoding="utf-8")

        await asyncio.to_thread(write)
        return MalformedGroupError(
            f"{error}. The group is kept in {path}; mend the environment, then go on where the run was: "
            f"{self._folder.resume_command}"
        )

    def _judged(self, draw: Draw, sequences: Sequence[ScoredSequence], *, environment: Any) -> Judged:
        name = f"atropos/{environment}"
        rollouts = tuple(
            Rollout(
                group_id=draw.group_id,
                sample_index=index,
                prompt=Prompt(problem_id=name, token_ids=one.prompt_ids, text=self._decode(one.prompt_ids)),
                completion=Completion(
                    token_ids=one.token_ids,
                    behavior_logprobs=one.logprobs,
                    finish_reason="length" if one.zero_advantage else "stop",
                    policy_version=one.policy_version,
                    loss_mask=() if all(one.loss_mask) else one.loss_mask,
                ),
                text=self._decode(one.token_ids),
                program=None,
                score=one.score,
            )
            for index, one in enumerate(sequences)
        )
        return Judged(rollouts=rollouts, verdicts=(None,) * len(rollouts), judge_failures=())

    def _classified(self, draw: Draw, judged: Judged, started_after: int) -> Group:
        experiences, drop_reason = classify_group(judged.rollouts, judged.verdicts, config=self._config.experience)
        return Group(
            draw=draw, started_after=started_after, experiences=experiences, drop_reason=drop_reason, judge_failures=()
        )

    def _batches_behind(self, judged: Judged) -> int:
        """How many batches its oldest tokens are behind the newest weights; 0 where nobody says."""
        known = [r.completion.policy_version for r in judged.rollouts if r.completion.policy_version != UNKNOWN_VERSION]
        updates = max((self.policy_version() - version for version in known), default=0)
        return max(0, -(-updates // self._config.experience.updates_per_batch))

    def _tell_unused(self, raw: dict[str, Any]) -> None:
        for name in set(unused_fields(raw)) - self._told:
            self._told.add(name)
            self._say(f"Atropos: environment {raw.get('env_id')} sends {name}, which are not used here")


class PullCollector:
    """Hands over what the server has: the groups that came first, those too late for every batch left out."""

    def __init__(
        self,
        source: PulledGroups,
        journal: Journal,
        position: Position,
        *,
        config: TrainConfig,
        first_step: int,
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        """Nothing is pulled before the first `take`, which begins with the groups pending at `position`."""
        rollout = config.rollout
        self._source, self._journal, self._on_progress = source, journal, on_progress
        self._num_groups, self._group_size = rollout.groups_per_step, rollout.group_size
        self._max_groups = rollout.groups_per_step * config.experience.max_draws_per_batch
        self._ahead, self._first_step = rollout.max_staleness, first_step
        self._next = position.next_group_id
        self._pending = list(position.pending)
        self._ready: list[Group] = []
        self._dropped: list[Group] = []
        self._has_begun = False

    async def take(self, step: int) -> Collected:
        """The batch of `step`, once there is one."""
        if not self._has_begun:
            await self._begin()
        self._drop_stale(step)
        while len(self._ready) < self._num_groups and len(self._ready) + len(self._dropped) < self._max_groups:
            self._on_progress("collect", len(self._ready), self._num_groups)
            self._sort(await self._more(trained_steps=step - 1))
            self._drop_stale(step)
        self._on_progress("collect", self._num_groups, self._num_groups)
        groups = [*self._dropped, *self._ready[: self._num_groups]]
        self._ready, self._dropped = self._ready[self._num_groups :], []
        return Collected(
            step=step,
            groups=tuple(sorted(groups, key=lambda group: group.group_id)),
            position=Position(
                next_group_id=self._next, stream_state=None, pending=tuple(group.draw for group in self._ready)
            ),
            num_in_flight=self.in_flight(),
            waiting=(self.in_flight(), sum(group.num_tokens for group in self._ready)),
        )

    def trained(self, step: int) -> None:
        """Nothing waits for it."""

    def in_flight(self) -> int:
        """Rollouts pulled that wait for their batch."""
        return (len(self._ready) + len(self._dropped) + len(self._pending)) * self._group_size

    async def close(self) -> None:
        """Closes the connections; what was pulled is in the journal."""
        await self._source.close()

    async def _begin(self) -> None:
        await self._source.register(step=self._first_step)
        self._has_begun = True
        while self._pending:
            draw = self._pending.pop(0)
            self._sort([await self._source.read(draw) or self._source.lost(draw)])

    async def _more(self, *, trained_steps: int) -> list[Group]:
        """Groups that an interrupted session has pulled and never handed over, or new ones."""
        draw = Draw(self._next, _ELSEWHERE)
        if self._journal.started_after(draw) is not None:
            groups = [await self._source.read(draw) or self._source.lost(draw)]
        elif self._journal.has_later(self._next):
            groups = [self._source.lost(draw)]
        else:
            groups = await self._source.pull(self._next, trained_steps=trained_steps)
        self._next += len(groups)
        return groups

    def _sort(self, groups: Sequence[Group]) -> None:
        for group in groups:
            (self._ready if group.drop_reason is None else self._dropped).append(group)

    def _drop_stale(self, step: int) -> None:
        """A group of known age that is too old for this batch is not trained on."""
        stale = [group for group in self._ready if group.started_after + 1 + self._ahead < step]
        self._ready = [group for group in self._ready if group not in stale]
        self._dropped += [as_stale(group) for group in stale]
