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
from dataclasses import dataclass
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
from nouscoder_jax.types import Comparison, Problem, Prompt, Rollout

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
    trainer_idle_share: float
    """Waiting for a batch: neither updating nor exporting nor waiting for the engine to take weights."""
    judge_busy_share: float
    """Of the workers' time."""
    staleness_max: int
    """Largest age of a trained group, batches."""
    kept_share: float
    """Groups with unequal rewards, of those handed over."""
    completion_tokens: float
    """Mean, of those handed over."""
    cut_share: float
    short_batches: int
    """Batches that the bound on draws has left short (a run may stop there: experience.short_batch)."""


def simulate(config: TrainConfig, setting: Setting, traffic: Traffic, *, num_steps: int, warm_up: int) -> Measured:
    """Runs `warm_up` + `num_steps` steps and measures the last ones."""
    return run_virtually(_simulate(config, setting, traffic, num_steps, warm_up))


async def _simulate(
    config: TrainConfig, setting: Setting, traffic: Traffic, num_steps: int, warm_up: int
) -> Measured:  # fmt: skip
    run, stopping = _Run(dataclasses.replace(config, num_steps=ENDLESS), setting, traffic), asyncio.Event()
    measured: list[Measured] = []

    async def train(collected: Collected) -> None:
        await run.train(collected)
        if collected.step == warm_up:
            run.reset()
        if collected.step == warm_up + num_steps:
            stopping.set()
            measured.append(run.measured(num_steps))

    await run_steps(run.collector, train, first_step=0, num_steps=ENDLESS, stopping=stopping)
    return measured[0]


class _Run:
    """The host's side of the run, with all servers, the judge and the trainer."""

    def __init__(self, config: TrainConfig, setting: Setting, traffic: Traffic) -> None:
        self._config, self._setting, self._traffic = config, setting, traffic
        servers = [
            Server(num_slots=setting.slots_per_server, decode_step_s=setting.decode_step_s)
            for _ in range(setting.servers)
        ]
        finishes = config.rollout.on_new_weights == "finish"
        self.engine = VirtualEngine(servers, traffic, reload_s=setting.reload_s, finishes=finishes)
        self.judge = VirtualJudge(traffic, num_workers=setting.num_workers)
        self.meter = SlotMeter(clock=now_s)
        self.meter.num_slots = self.engine.num_slots
        self.collector = self._collector()
        self.reset()

    def reset(self) -> None:
        """What is measured begins now."""
        self.meter.take()
        for server in self.engine.servers:
            server.measure()
            server.tokens = server.busy_s = server.stopped_s = 0.0
        self._started_s, self._trained_s, self.judge.busy_s = now_s(), 0.0, 0.0
        self._batches: list[Collected] = []

    async def train(self, collected: Collected) -> None:
        """One step: the update, new weights to the servers."""
        setting, engine, began_s = self._setting, self.engine, now_s()
        trained = [e.rollout for group in collected.used for e in group.experiences if e.trainable]
        self._batches.append(collected)
        if not trained:
            return
        if setting.colocated:
            await engine.release_memory()
        await asyncio.sleep(setting.update_s(sum(setting.prompt_tokens + self._tokens(one) for one in trained)))
        if setting.colocated:
            await engine.resume_memory()
        await asyncio.sleep(setting.export_s)
        version = engine.policy_version + self._config.experience.updates_per_batch
        await engine.reload(Path("."), policy_version=version)
        self._trained_s += now_s() - began_s

    def measured(self, num_steps: int) -> Measured:
        """Since the reset."""
        seconds, servers, batches = now_s() - self._started_s, self.engine.servers, self._batches
        for server in servers:
            server.measure()
        groups = [group for batch in batches for group in batch.groups]
        rollouts = [one.rollout for batch in batches for one in batch.experiences]
        servers_s = seconds * len(servers)
        return Measured(
            step_s=seconds / num_steps,
            tokens_per_s=sum(one.tokens for one in servers) / seconds,
            engine_idle_share=max(0.0, self.meter.take()),
            server_idle_share=1 - sum(one.busy_s for one in servers) / servers_s,
            loading_share=sum(one.stopped_s for one in servers) / servers_s,
            trainer_idle_share=1 - self._trained_s / seconds,
            judge_busy_share=self.judge.busy_s / (seconds * self._setting.num_workers),
            staleness_max=max((b.step - 1 - group.started_after for b in batches for group in b.used), default=0),
            kept_share=sum(len(batch.used) for batch in batches) / max(len(groups), 1),
            completion_tokens=statistics.fmean(map(self._tokens, rollouts)),
            cut_share=statistics.fmean(one.completion.finish_reason == "length" for one in rollouts),
            short_batches=sum(len(batch.used) < self._config.rollout.groups_per_step for batch in batches),
        )

    def _tokens(self, one: Rollout) -> int:
        return self._traffic.sample(one.prompt.problem_id, one.completion.token_ids[0]).num_tokens

    def _collector(self) -> Collector:
        problems = [make_problem(problem_id) for problem_id in self._traffic.problem_ids]
        maker = GroupMaker(
            self._config,
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
        stream = problem_stream(len(problems), seed=self._config.seed)
        drawer = Drawer(stream, Position(next_group_id=0, stream_state=None, pending=()))
        return make_collector(self._config, drawer, maker, first_step=0, on_progress=lambda stage, done, total: None)


def make_problem(problem_id: str) -> Problem:
    """A problem without content."""
    exact = Comparison(kind="exact", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
    return Problem(
        problem_id=problem_id, statement="", tests=(), fn_name=None, starter_code="", prelude="", time_limit_s=None,
        memory_limit_mib=None, comparison=exact, source="pipeline bench", family="",
    )  # fmt: skip
