"""The loop on the virtual clock: its own collectors, groups and steps, around machines that are numbers.

In: a config, a `Setting`, Traffic. Out: `Measured`: what a step takes and who had nothing to do meanwhile.

One head has all servers and one judge, as in a real run. The first steps warm up and count for nothing, and drawing
never ends, so that no figure has a beginning or an end in it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nouscoder_jax.bench.pipeline.parts import Server, VirtualEngine, VirtualJudge, program_text
from nouscoder_jax.bench.pipeline.traffic import Traffic
from nouscoder_jax.bench.pipeline.virtual_clock import now_s, run_virtually
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.loop.collect import Collector, make_collector
from nouscoder_jax.loop.groups import Collected, Drawer, GroupMaker, NoJournal, Position
from nouscoder_jax.loop.pipeline import run_steps
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.extract import Extracted, published_program
from nouscoder_jax.types import Comparison, Problem, Prompt

ENDLESS = 10**9
"""Steps of the config that collectors are given: the run is stopped long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The machines.

    Example:
        Setting(servers=40, slots_per_server=20, decode_step_s=lambda n: 0.01 + 0.0002 * n,
                update_s=lambda tokens: 2e-5 * tokens, export_s=6.0, reload_s=6.0, num_workers=100, prompt_tokens=600,
                colocated=False)
    """

    servers: int
    slots_per_server: int
    decode_step_s: Callable[[int], float]
    """Seconds of a decoding step of a server, by its number of sequences."""
    update_s: Callable[[int], float]
    """Seconds of all updates of a step, by its trained tokens, prompts included."""
    export_s: float
    """From the update to complete files; the engine goes on meanwhile."""
    reload_s: float
    """A server stands still for so long when it takes new weights."""
    num_workers: int
    """Of the judge."""
    prompt_tokens: int
    colocated: bool
    """Engine and trainer share the GPUs: servers stand still during an update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Means over the steps that count. Shares are of their time, 0 to 1.

    Example:
        Measured(step_s=434.0, tokens_per_s=55000.0, engine_idle_share=0.016, ...)
    """

    step_s: float
    tokens_per_s: float
    """Generated, by all servers."""
    engine_idle_share: float
    """Of the slots: no completion to decode. As the loop measures it (metrics/timer.py)."""
    server_idle_share: float
    """Of the servers' time: nothing to decode at all, or standing still."""
    loading_share: float
    """Of the servers' time: standing still while weights come, or during an update of a colocated trainer."""
    sequences_per_server: float
    """Decoded at once, while there are any."""
    trainer_idle_share: float
    """Neither updating nor exporting nor waiting for the engine to take weights: waiting for a batch."""
    update_share: float
    weights_share: float
    """Of the trainer's time: export and reload."""
    judge_busy_share: float
    """Of the workers' time."""
    judge_wait_s: float
    """From a completion's end until a worker takes it, mean."""
    staleness_mean: float
    """Age of a trained group, batches."""
    staleness_max: int
    kept_share: float
    """Groups with unequal rewards, of those handed over."""
    completion_tokens: float
    """Mean, of those handed over."""
    cut_share: float
    short_batches: int
    """Batches that the bound on draws has left short (a run may stop there: experience.short_batch)."""
    timeline: tuple[tuple[float, int], ...] = field(repr=False)
    """(seconds since the first step that counts, sequences decoded) at every change."""
    updates: tuple[tuple[float, float], ...] = field(repr=False)
    """(begin, end) of each step's updates, on the same clock."""


def simulate(
    config: TrainConfig,
    setting: Setting,
    traffic: Traffic,
    *,
    num_steps: int,
    warm_up: int,
    on_step: Callable[[int], None],
) -> Measured:
    """Runs `warm_up` + `num_steps` steps and measures the last ones; `on_step(step)` after each."""
    return run_virtually(_Simulation(config, setting, traffic).run(num_steps, warm_up, on_step))


class _Head:
    """The host's side of the run, with all servers and the judge."""

    def __init__(self, config: TrainConfig, setting: Setting, traffic: Traffic) -> None:
        servers = [
            Server(num_slots=setting.slots_per_server, decode_step_s=setting.decode_step_s)
            for _ in range(setting.servers)
        ]
        finishes = config.rollout.on_new_weights == "finish"
        self.engine = VirtualEngine(servers, traffic, reload_s=setting.reload_s, finishes=finishes)
        self.judge = VirtualJudge(traffic, num_workers=setting.num_workers)
        self.meter = SlotMeter(clock=now_s)
        self.meter.num_slots = self.engine.num_slots
        self.ages: list[int] = []
        self.batches: list[Collected] = []
        self.collector = self._collector(config, setting, traffic)

    def reset(self) -> None:
        """What is measured begins now."""
        self.meter.take()
        for server in self.engine.servers:
            server.measure()
            server.tokens = server.busy_s = server.stopped_s = server.sequence_s = 0.0
        self.judge.busy_s = self.judge.waited_s = 0.0
        self.judge.num_judged = 0
        self.ages.clear()
        self.batches.clear()
        self.engine.timeline = self.engine.timeline[-1:]

    def take_in(self, collected: Collected) -> None:
        """Counts a batch that is about to be trained on."""
        self.ages += [collected.step - 1 - group.started_after for group in collected.used for _ in group.experiences]
        self.batches.append(collected)

    def _collector(self, config: TrainConfig, setting: Setting, traffic: Traffic) -> Collector:
        problems = [_problem(problem_id) for problem_id in traffic.problem_ids]
        maker = GroupMaker(
            config,
            engine=self.engine,
            judge=self.judge,
            journal=NoJournal(),
            problems=problems,
            prompts={one.problem_id: Prompt(problem_id=one.problem_id, token_ids=(0,)) for one in problems},
            decode=program_text,
            extract=lambda prompt, completion, text: Extracted(published_program(text), False),
            timer=StageTimer(clock=now_s),
            meter=self.meter,
            on_finished=lambda stage: None,
        )
        stream = problem_stream(len(problems), seed=config.seed)
        return make_collector(
            config,
            Drawer(stream, Position(next_group_id=0, stream_state=None, pending=())),
            maker,
            first_step=0,
            on_progress=lambda stage, done, total: None,
        )


class _Simulation:
    def __init__(self, config: TrainConfig, setting: Setting, traffic: Traffic) -> None:
        self._config = dataclasses.replace(config, num_steps=ENDLESS)
        self._setting, self._traffic = setting, traffic
        self._updates: list[tuple[float, float]] = []
        self._update_s = self._weights_s = 0.0
        self._started_s = 0.0

    async def run(self, num_steps: int, warm_up: int, on_step: Callable[[int], None]) -> Measured:
        stopping = asyncio.Event()
        self._head = _Head(self._config, self._setting, self._traffic)
        measured: list[Measured] = []

        async def train(collected: Collected) -> None:
            await self._train(collected)
            on_step(collected.step)
            if collected.step == warm_up:
                self._reset()
            if collected.step == warm_up + num_steps:
                stopping.set()
                measured.append(self._measure(num_steps))

        await run_steps(self._head.collector, train, first_step=0, num_steps=ENDLESS, stopping=stopping)
        return measured[0]

    async def _train(self, collected: Collected) -> None:
        """One step: the update, new weights to the servers."""
        setting, engine = self._setting, self._head.engine
        tokens = self._trained_tokens(collected)
        self._head.take_in(collected)
        if tokens == 0:
            return
        began_s = now_s()
        if setting.colocated:
            await engine.release_memory()
        await asyncio.sleep(setting.update_s(tokens))
        if setting.colocated:
            await engine.resume_memory()
        updated_s = now_s()
        await asyncio.sleep(setting.export_s)
        version = engine.policy_version + self._config.experience.updates_per_batch
        await engine.reload(Path("."), policy_version=version)
        self._updates.append((began_s, updated_s))
        self._update_s += updated_s - began_s
        self._weights_s += now_s() - updated_s

    def _trained_tokens(self, collected: Collected) -> int:
        trained = (e.rollout for group in collected.used for e in group.experiences if e.trainable)
        return sum(
            self._setting.prompt_tokens
            + self._traffic.sample(one.prompt.problem_id, one.completion.token_ids[0]).num_tokens
            for one in trained
        )

    def _reset(self) -> None:
        self._started_s, self._update_s, self._weights_s = now_s(), 0.0, 0.0
        self._updates.clear()
        self._head.reset()

    def _measure(self, num_steps: int) -> Measured:
        seconds, head = now_s() - self._started_s, self._head
        servers, batches, judge = head.engine.servers, head.batches, head.judge
        for server in servers:
            server.measure()
        groups = [group for batch in batches for group in batch.groups]
        samples = [
            self._traffic.sample(e.rollout.prompt.problem_id, e.rollout.completion.token_ids[0])
            for batch in batches
            for e in batch.experiences
        ]
        ages = head.ages or [0]
        needed = self._config.rollout.groups_per_step
        busy_s = sum(one.busy_s for one in servers)
        return Measured(
            step_s=seconds / num_steps,
            tokens_per_s=sum(one.tokens for one in servers) / seconds,
            engine_idle_share=head.meter.take(),
            server_idle_share=1 - busy_s / (seconds * len(servers)),
            loading_share=sum(one.stopped_s for one in servers) / (seconds * len(servers)),
            sequences_per_server=sum(one.sequence_s for one in servers) / max(busy_s, 1e-9),
            trainer_idle_share=1 - (self._update_s + self._weights_s) / seconds,
            update_share=self._update_s / seconds,
            weights_share=self._weights_s / seconds,
            judge_busy_share=judge.busy_s / (seconds * self._setting.num_workers),
            judge_wait_s=judge.waited_s / max(judge.num_judged, 1),
            staleness_mean=statistics.fmean(ages),
            staleness_max=max(ages),
            kept_share=sum(len(batch.used) for batch in batches) / max(len(groups), 1),
            completion_tokens=statistics.fmean(one.num_tokens for one in samples),
            cut_share=statistics.fmean(one.cut for one in samples),
            short_batches=sum(len(batch.used) < needed for batch in batches),
            timeline=self._timeline(),
            updates=tuple((begin - self._started_s, end - self._started_s) for begin, end in self._updates),
        )

    def _timeline(self) -> tuple[tuple[float, int], ...]:
        """Sequences decoded."""
        changes = self._head.engine.timeline
        return tuple((max(0.0, when_s - self._started_s), number) for when_s, number in changes)


def _problem(problem_id: str) -> Problem:
    exact = Comparison(kind="exact", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
    return Problem(
        problem_id=problem_id,
        statement="",
        tests=(),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=None,
        memory_limit_mib=None,
        comparison=exact,
        source="pipeline bench",
        family="",
    )
