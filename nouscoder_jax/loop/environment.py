"""An Atropos environment: our problems, engine and judge, for any trainer that an Atropos server has.

In: a config, the server's address. Out: judged groups pushed to the server; an exit code. A group whose rewards are all
equal, or of which the judge or the engine failed a rollout, is not pushed: a failure is never a score.

    server: how many groups wait? --> draw, generate, judge --> push       few enough to be trained on in time
    checkpoint_dir: a new policy-NNNNNN? --> the engine takes it           weights of a trainer of ours

What could not be pushed when the environment ends is kept in OUT/unsent.jsonl and pushed first by the next one there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.experience.filters import group_class
from nouscoder_jax.hub import find_model
from nouscoder_jax.loop.groups import Drawer, Group, GroupMaker, NoJournal, Position
from nouscoder_jax.loop.interrupts import interruptible
from nouscoder_jax.loop.setup import build, make_engine, serving
from nouscoder_jax.manifest import FILE_NAME
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import read_config
from nouscoder_jax.rollout.atropos import RETRY_S, AtroposServer, scored_data
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.sglang_calls import RefusedError, ServerLostError
from nouscoder_jax.training.export import newest_version
from nouscoder_jax.types import EngineError

TELL_S = 10.0
"""Seconds between two lines about how it goes."""
LINGER_S = 1800.0
"""Seconds without a batch or new weights after which a trainer that has had all its batches is taken to be done."""


def run_environment(config: TrainConfig, *, url: str, out: Path, say: Callable[[str], None]) -> int:
    """Serves groups until the trainer has had its batches, or Ctrl-C: exit code 0. Raises UserError, EngineError."""
    if config.experience.overlong == "leave_group":
        raise UserError(
            "experience.overlong is leave_group, which a pushed group cannot say; use zero_advantage (which asks the "
            "trainer for it) or keep"
        )
    components = build(config)
    architecture = Architecture.from_hf(read_config(find_model(config.model.path))).stretched(
        config.model.yarn_factor, original_tokens=config.model.yarn_original_tokens
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out is {out}: {error.strerror}; give a folder that can be written") from error

    async def run() -> None:
        with serving(config, out / "servers", say=say) as urls:
            engine = make_engine(components, architecture, urls, say=say)
            async with contextlib.AsyncExitStack() as at_end:
                at_end.push_async_callback(components.judge.close)
                at_end.push_async_callback(engine.close)
                maker = GroupMaker(
                    config,
                    engine=engine,
                    judge=components.judge,
                    journal=NoJournal(),
                    problems=components.train.problems,
                    prompts=components.train.prompts,
                    decode=components.prompt_maker.decode,
                    extract=components.extract,
                    timer=StageTimer(),
                    meter=SlotMeter(),
                    on_finished=lambda stage: None,
                )
                drawer = Drawer(
                    problem_stream(len(components.train.problems), seed=config.seed),
                    Position(next_group_id=0, stream_state=None, pending=()),
                )
                server = AtroposServer(url, outage_limit_s=config.rollout.outage_limit_s, say=say)
                at_end.push_async_callback(server.close)
                say(f"sandbox: {components.judge.name}")
                say(f"engine: {engine.name}")
                environment = Environment(config, server, engine, maker, drawer, unsent=out / "unsent.jsonl", say=say)
                with interruptible(None, say=say) as stopping:
                    await environment.run(stopping)

    asyncio.run(run())
    return 0


class Environment:
    """One environment of one server."""

    def __init__(
        self,
        config: TrainConfig,
        server: AtroposServer,
        engine: Engine,
        maker: GroupMaker,
        drawer: Drawer,
        *,
        unsent: Path,
        say: Callable[[str], None],
    ) -> None:
        """`maker` makes the groups of `engine`; `unsent` keeps what could not be pushed."""
        self._config, self._server, self._engine, self._maker, self._drawer = config, server, engine, maker, drawer
        self._unsent, self._say = unsent, say
        self._running: set[asyncio.Task[Group]] = set()
        self._to_push: list[Group] = []
        self._registered: dict[str, Any] | None = None
        self._loaded: Path | None = None
        """Folder of the trainer's weights that the engine has; None: those that the config names."""
        self._told_of: set[str] = set()
        self.counts: Counter[str] = Counter()
        """Groups drawn, pushed, and left out by reason."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Serves until the trainer has had its batches, or `stopping`. Raises EngineError."""
        stop = asyncio.create_task(stopping.wait())
        told, seen, since = time.monotonic(), None, time.monotonic()
        try:
            while not stopping.is_set():
                status = await self._status(stop)
                if status is None:
                    continue
                await self._follow()
                await self._push_all()
                self._draw(status)
                now = (status["current_step"], self._engine.policy_version)
                seen, since = (seen, since) if now == seen else (now, time.monotonic())
                if self._has_all(status) and time.monotonic() - since >= LINGER_S:
                    self._say(f"the trainer has had its {status['current_step']} batches, and asks for no other")
                    break
                if time.monotonic() - told >= TELL_S:
                    told = time.monotonic()
                    self._say(f"{self._told()}; {status['queue_size']} wait at the server")
                await asyncio.wait({stop, *self._running}, timeout=RETRY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            for task in self._running:
                task.cancel()
            await asyncio.gather(stop, *self._running, return_exceptions=True)
            await self._leave()

    async def _status(self, stop: asyncio.Task[Any]) -> dict[str, Any] | None:
        """What the server says of the run and its queue; None: not yet, or not any more."""
        if self._registered is None:
            self._registered = await self._register(stop)
            if self._registered is None:
                self._say_once(f"waiting for a trainer at {self._server.url}")
                await asyncio.wait({stop}, timeout=RETRY_S)
                return None
            self._say(
                f"environment {self._registered['env_id']} of {self._server.url}: a trainer of "
                f"{self._registered['num_steps']} batches, at {self._registered['starting_step']}"
            )
        try:
            await self._push_unsent()
            return await self._server.environment_status(self._registered["env_id"])
        except (RefusedError, ServerLostError, EngineError) as error:
            self._say(f"{error}; registering again")
            self._registered = None
            await asyncio.wait({stop}, timeout=RETRY_S)
            return None

    async def _register(self, stop: asyncio.Task[Any]) -> dict[str, Any] | None:
        """What the server says of the run; None: no trainer yet, or `stop`."""
        registering = asyncio.create_task(
            self._server.register_environment(
                name=f"nouscoder-{self._config.name}",
                group_size=self._config.rollout.group_size,
                max_tokens=self._config.context_tokens,
            )
        )
        try:
            await asyncio.wait({registering, stop}, return_when=asyncio.FIRST_COMPLETED)
            return registering.result() if registering.done() else None
        finally:
            registering.cancel()
            await asyncio.gather(registering, return_exceptions=True)

    async def _follow(self) -> None:
        """Gives the engine the newest weights of the trainer's folder, where it is one of ours and can be seen."""
        folder = Path((self._registered or {}).get("checkpoint_dir") or "/nowhere")
        found = await asyncio.to_thread(newest_version, folder)
        if found is None:
            self._loaded = None  # of another trainer, if any
            how = "waiting for them" if self._engine.policy_version < 0 else "generating with those of the config"
            self._say_once(f"no weights of the trainer to be seen here ({folder}): {how}")
            return
        version, path = found
        if path == self._loaded:
            return
        try:
            await self._engine.reload(path, policy_version=version)
            self._loaded = path
        except EngineError as error:
            if (path / FILE_NAME).exists():  # else a newer one has taken its place
                raise
            self._say(f"{error}; a newer version is there")

    def _draw(self, status: dict[str, Any]) -> None:
        """Starts as many groups as the trainer can take in time."""
        rollout = self._config.rollout
        # The server hands all whole batches that wait to the trainer at once, the newest first; as many may be made
        # meanwhile. Half of what the bound allows is in time then.
        ahead = (max(1, rollout.max_staleness) + 1) // 2 * rollout.groups_per_step
        room = ahead - int(status["queue_size"]) - len(self._running) - len(self._to_push)
        if self._engine.policy_version < 0:
            return  # servers that were given no version
        while room > 0 and self._maker.num_generating < self._engine.num_slots + rollout.group_size:
            task = self._maker.start(self._drawer.draw(), started_after=0)
            self._running.add(task)
            self.counts["drawn"] += 1
            room -= 1
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Group]) -> None:
        if task.cancelled() or task.exception() is not None:
            return  # told where it is awaited
        self._running.discard(task)
        group = task.result()
        reason = group_class(group.drop_reason)
        if group.drop_reason is None and any(e.reward is None for e in group.experiences):
            reason = "a failed rollout"
        if group.judge_failures:
            self._say(f"the judge failed on group {group.group_id}, which is not pushed: {group.judge_failures[0]}")
        if reason == group_class(None):
            self._to_push.append(group)
        else:
            self.counts[reason] += 1

    async def _push_all(self) -> None:
        for task in [task for task in self._running if task.done()]:
            task.result()  # raises what ended it
        while self._to_push and self._registered is not None:
            try:
                # A server that was started again takes no trainer once it has a group: it has to know this environment.
                await self._server.environment_status(int(self._registered["env_id"]))
                await self._server.push(self._data(self._to_push[0]))
            except (ServerLostError, RefusedError) as error:
                self._say(f"{error}; registering again")
                self._registered = None
                return
            self._to_push.pop(0)
            self.counts["pushed"] += 1

    def _data(self, group: Group) -> dict[str, Any]:
        return scored_data(
            group.experiences,
            env_id=-1 if self._registered is None else int(self._registered["env_id"]),
            temperature=self._config.rollout.temperature,
            zero_when_cut=self._config.experience.overlong == "zero_advantage",
            knows_version=self._loaded is not None,
        )

    async def _push_unsent(self) -> None:
        if self._registered is None or not self._unsent.exists():
            return
        lines = self._unsent.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            await self._server.push(json.loads(line) | {"env_id": int(self._registered["env_id"])})
            partial = self._unsent.with_suffix(".part")
            partial.write_text("".join(f"{left}\n" for left in lines[number:]), encoding="utf-8")
            partial.replace(self._unsent)
            self.counts["pushed"] += 1
        self._unsent.unlink()
        self._say(f"pushed {len(lines)} groups that an earlier environment could not push")

    def _has_all(self, status: dict[str, Any]) -> bool:
        """Whether the server has handed out the trainer's batches, and every group that may be asked for waits."""
        steps = int((self._registered or {}).get("num_steps", 0))
        return int(status["current_step"]) >= steps and not self._running and not self._to_push

    def _say_once(self, line: str) -> None:
        if line not in self._told_of:
            self._told_of.add(line)
            self._say(line)

    async def _leave(self) -> None:
        if self._to_push:
            with self._unsent.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(self._data(group)) + "\n" for group in self._to_push)
            self._say(f"{len(self._to_push)} groups could not be pushed and are in {self._unsent}")
        if self._registered is not None:
            with contextlib.suppress(ServerLostError, RefusedError, EngineError):
                await self._server.disconnect_environment(int(self._registered["env_id"]))
        self._say(self._told())

    def _told(self) -> str:
        left_out = ", ".join(
            f"{number} {reason}" for reason, number in sorted(self.counts.items()) if reason not in ("drawn", "pushed")
        )
        return (
            f"groups drawn: {self.counts['drawn']}, pushed: {self.counts['pushed']}, left out: {left_out or 'none'}, "
            f"under way: {len(self._running)}; policy v{self._engine.policy_version}"
        )
