"""One run from its first evaluation to its last export; the diagram is in nouscoder_jax/loop/__init__.py.

In: a TrainConfig, or a run folder to resume. Out: the run folder, lines on the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.evaluation import EvaluationResult, evaluate
from nouscoder_jax.experience.filters import assign_advantages
from nouscoder_jax.experience.packing import pack, pick_row_tokens
from nouscoder_jax.loop import folder as folders
from nouscoder_jax.loop.collect import Collector, make_collector, told
from nouscoder_jax.loop.drift import check_gate
from nouscoder_jax.loop.folder import RunFolder
from nouscoder_jax.loop.groups import Collected, Drawer, GroupMaker, Position
from nouscoder_jax.loop.journal import Journal, config_hash
from nouscoder_jax.loop.parts import Parts, build, make_engine, serving
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.publish import Publisher
from nouscoder_jax.loop.replay import ReplayingCollector
from nouscoder_jax.loop.summary import finish, introduce
from nouscoder_jax.loop.turns import Turns, record, rewind
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.sinks import JsonlSink, Sink, TensorBoardSink
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.sharding import largest_of_processes, of_all_processes, texts_of_processes
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.state import TrainState, abstract, from_model
from nouscoder_jax.types import Batch, Experience
from nouscoder_jax.verifier.extract import extract_program


def train(config: TrainConfig, *, resume: bool) -> Path:
    """Runs the experiment and returns its folder. With `resume`, `config.run_dir` holds the run to continue.

    Raises UserError where the input is wrong or the disk is full, EngineError where generation fails for good,
    ConservationError where rollouts were lost.
    """
    parts = build(config)
    folder = (folders.reopen if resume else folders.create)(config, process=jax.process_index())
    with serving(config, folder.path / "servers", say=print) as urls, _told_of_files(folder):
        asyncio.run(Run(parts, folder, resume=resume, urls=urls).run())
    return folder.path


class Run:
    """A run that is going on: the side that has devices (a `Trainer`), and all parts put together."""

    def __init__(self, parts: Parts, folder: RunFolder, *, resume: bool, urls: Sequence[str]) -> None:
        """Restores the newest whole checkpoint with `resume`, else starts from the base model. `urls`: servers, if
        any."""
        self.urls, self.resumed = urls, resume
        self.parts, self.config, self.folder = parts, parts.config, folder
        self.display = Display(num_steps=self.config.num_steps, stream=None)
        self.timer = StageTimer()
        self.meter = SlotMeter()
        self.publisher = Publisher(self.config, parts.architecture, folder, timer=self.timer)
        self.stopping = asyncio.Event()
        self._idle: dict[str, float] | None = None
        """Idle shares of a step whose evaluation has begun."""
        kept = self.config.checkpoint
        self.checkpointer = Checkpointer(
            folder.checkpoints, keep=kept.keep, keep_best=kept.keep_best, say=self.display.line
        )
        self.progress = Progress()
        self.has_begun = resume and not self.checkpointer.is_empty()
        """Whether the weights are those of a step that has been finished."""
        if self.has_begun:
            target = abstract(parts.architecture, parts.optimizer, mesh=parts.mesh)
            self.state, stored = self.checkpointer.restore(target, step=None)
            self.progress = Progress(**_own(stored["processes"]))
            self.display.at(self.progress.step)
        else:
            self.state: TrainState = from_model(parts.base_model, parts.architecture, parts.optimizer, mesh=parts.mesh)
        self.journal = Journal(folder.journal, config_hash=config_hash(self.config), say=self.display.line)
        self.turns = Turns(
            self.config,
            progress=self.progress,
            journal=self.journal,
            folder=folder,
            trainer=self,
            checkpoints=self.checkpointer,
            write=self.write,
            say=self.display.line,
            any_of_processes=lambda flag: largest_of_processes(int(flag)) > 0,
        )
        self.sinks = self._open_sinks()

    def _open_sinks(self) -> list[Sink]:
        """What takes metrics; of a resumed run, what it had written of later steps is taken away and comes again."""
        finished = (self.progress.step if self.has_begun else -1) if self.resumed else None
        if finished is not None:
            rewind(self.folder, self.journal, self.progress, step=finished)
        sinks: list[Sink] = [JsonlSink(self.folder.metrics, resume_step=finished)]
        if self.config.logging.tensorboard:
            sinks.append(TensorBoardSink(self.folder.tensorboard, resume_step=finished))
        return sinks

    async def run(self) -> None:
        """Steps until the last one, or until Ctrl-C; then evaluation, checkpoint, export and summary."""
        with self.display, self._catch_interrupt():
            self.parts.judge.breaker.say = self.display.line
            introduce(self.parts, self.folder, say=self.display.line)
            if self.resumed:
                self.display.line(
                    f"resumed after step {self.progress.step} with policy v{self.progress.policy_version}; the journal "
                    f"has {len(self.journal)} groups that need not be generated again"
                )
            engine = self.engine = make_engine(self.parts, self.urls, say=self.display.line)
            try:
                await self._publish(resumed=self.resumed)
                if not self.has_begun:
                    await self.turns.begin()
                self.meter.num_slots = engine.num_slots
                self.meter.take()
                await self.turns.run(self._collector(), stopping=self.stopping)
            finally:
                await engine.close()
                await self.parts.judge.close()
                self.checkpointer.close()
                for sink in self.sinks:
                    sink.close()
            self.journal.prune(self.checkpointer.latest_step() or 0)
            self._finish()

    def prepare(self, collected: Collected) -> Collected:
        """The same with advantages, which may need the groups of all processes."""
        advantaged = assign_advantages(
            [group.experiences for group in collected.used],
            config=self.config.experience,
            group_size=self.config.rollout.group_size,
            max_groups=self.config.rollout.groups_per_step // self.config.mesh.num_processes,
            of_all_processes=of_all_processes,
            process=jax.process_index(),
        )
        return collected.with_used(advantaged)

    async def update(self, collected: Collected) -> dict[str, float]:
        """The update, in a thread, and the new weights to the engine; an engine on the same GPUs gives its memory back
        meanwhile if the config says so. Nothing where no process has a group."""
        await asyncio.to_thread(self._check_full, collected)
        if not await asyncio.to_thread(largest_of_processes, len(collected.used)):
            return {}
        if self.config.server.memory_saver:
            await self.engine.release_memory()
        try:
            metrics = await asyncio.to_thread(self._update, collected)
        finally:
            if self.config.server.memory_saver:
                await self.engine.resume_memory()
        await self._publish(resumed=False)
        return metrics

    async def evaluate(self) -> dict[str, float]:
        """Held-out pass@1 of the weights that the engine serves."""
        self._idle = self._idle_shares()
        with self.timer.stage("evaluate"):
            result = await self._evaluate()
        self.display.line(
            f"held-out pass@1 {result.pass_at_1:.1%} ({len(self.parts.held_out.problems)} problems x "
            f"{self.config.evaluation.samples_per_problem} samples, policy v{self.progress.policy_version})"
        )
        pass_at_1 = await asyncio.to_thread(of_all_processes, np.asarray(result.pass_at_1))
        return {
            "held_out/pass_at_1": float(pass_at_1.mean()),
            "held_out/truncated_share": result.truncated_share,
            "held_out/completion_tokens_mean": result.completion_tokens_mean,
            "held_out/judge_failures": float(result.num_judge_failures),
        }

    def save(self, pass_at_1: float | None) -> None:
        """A checkpoint of where the run stands."""
        with self.timer.stage("checkpoint"):
            everyone = [json.loads(text) for text in texts_of_processes(json.dumps(record(self.progress)))]
            self.checkpointer.save(self.progress.step, self.state, {"processes": everyone}, pass_at_1=pass_at_1)

    def _check_full(self, collected: Collected) -> None:
        """Raises UserError where the batch of any process is short and the config wants to stop then."""
        config, num_groups = self.config, self.config.rollout.groups_per_step // self.config.mesh.num_processes
        lacking = num_groups - len(collected.used)
        if config.experience.short_batch == "stop" and largest_of_processes(lacking) > 0:
            raise UserError(
                f"step {collected.step}: {len(collected.groups)} groups drawn (experience.max_draws_per_batch is "
                f"{config.experience.max_draws_per_batch}) gave {len(collected.used)} of the {num_groups} that a batch "
                f"needs ({told(collected.groups)}); use problems that the policy solves sometimes, draw more, or train "
                f"on what there is with --experience.short-batch train. Steps up to {self.progress.step} are kept"
            )

    def _update(self, collected: Collected) -> dict[str, float]:
        """Packs the groups and takes `updates_per_batch` optimizer steps, each on its share of them. With several
        processes, one that has fewer groups takes part with empty rows."""
        config, groups = self.config, collected.used
        size = max(1, -(-len(groups) // config.experience.updates_per_batch))
        num_shares = largest_of_processes(-(-len(groups) // size))
        shares = [[e for g in groups[i * size : (i + 1) * size] for e in g.experiences] for i in range(num_shares)]
        recomputes = config.loss.old_logprobs == "recomputed"
        with self.timer.stage("pack"):
            packed = [
                # Recomputed logprobs are all of the weights before the first update.
                self._pack(share, policy_version=self.progress.policy_version + (0 if recomputes else number))
                for number, share in enumerate(shares)
            ]
        measured: list[dict[str, float]] = []
        with self.timer.stage("update"):
            model = self.state.model
            old_logprobs = [self.parts.token_logprobs(model, batch) if recomputes else None for batch, _ in packed]
            for share, (batch, num_micro_batches), old in zip(shares, packed, old_logprobs, strict=True):
                self.state, metrics = self.parts.update(self.state, batch, num_micro_batches, old)
                used = num_micro_batches * (config.experience.rows_per_micro_batch // jax.process_count())
                check_gate(metrics, batch, share, config=config, step=collected.step)
                self.progress.policy_version += 1
                metrics["padding_share"] = 1 - float((batch.segment_ids[:used] > 0).mean())
                measured.append(metrics)
        return {f"update/{name}": value for name, value in average(measured).items()}

    def _pack(self, experiences: Sequence[Experience], *, policy_version: int) -> tuple[Batch, int]:
        """Rows of the length, and micro-batches in the number, that all processes agree on."""
        config = self.config.experience
        batch, num_micro_batches = pack(
            experiences,
            row_tokens=largest_of_processes(pick_row_tokens(experiences, row_tokens=config.row_tokens)),
            rows_per_micro_batch=config.rows_per_micro_batch // jax.process_count(),
            max_experiences=self._max_experiences,
            packed_rows=config.packed_rows,
            policy_version=policy_version,
        )
        return batch, largest_of_processes(num_micro_batches)

    @property
    def _max_experiences(self) -> int:
        """Experiences of one update at most, in this process."""
        config = self.config
        groups = config.rollout.groups_per_step // config.mesh.num_processes
        return -(-groups // config.experience.updates_per_batch) * config.rollout.group_size

    async def _publish(self, *, resumed: bool) -> None:
        version = self.progress.policy_version
        await self.publisher.publish(self.engine, self.state.model, policy_version=version, resumed=resumed)

    async def _evaluate(self) -> EvaluationResult:
        evaluation, held_out = self.config.evaluation, self.parts.held_out
        return await evaluate(
            held_out.problems,
            held_out.prompts,
            engine=self.engine,
            judge=self.parts.judge,
            samples_per_problem=evaluation.samples_per_problem,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
            top_k=evaluation.top_k,
            max_completion_tokens=evaluation.max_completion_tokens,
            seed=self.config.seed,
            decode=self.parts.prompt_maker.decode,
            extract=extract_program,
            on_progress=lambda done, total: self.display.progress("evaluate", done=done, total=total),
        )

    def _collector(self) -> ReplayingCollector:
        train = self.parts.train
        stream = problem_stream(
            len(train.problems),
            seed=self.config.seed,
            process_index=jax.process_index(),
            num_processes=jax.process_count(),
        )
        progress = self.display.progress
        wave: Counter[str] = Counter()

        def finished(stage: str) -> None:
            wave[stage] += 1
            total = self.config.rollout.groups_per_step * self.config.rollout.group_size // jax.process_count()
            progress(stage, done=(wave[stage] - 1) % total + 1, total=total)

        maker = GroupMaker(
            self.config,
            engine=self.engine,
            judge=self.parts.judge,
            journal=self.journal,
            problems=train.problems,
            prompts=train.prompts,
            decode=self.parts.prompt_maker.decode,
            timer=self.timer,
            meter=self.meter,
            on_finished=finished,
        )

        def begin(position: Position, first_step: int) -> Collector:
            return make_collector(
                self.config,
                Drawer(stream, position),
                maker,
                first_step=first_step,
                num_processes=jax.process_count(),
                on_progress=lambda stage, done, total: progress(stage, done=done, total=total),
            )

        return ReplayingCollector(self.journal, maker, begin, position=self.progress.position)

    def _idle_shares(self) -> dict[str, float]:
        """How long the engine's slots and the trainer had nothing to do in this step."""
        seconds = self.timer.so_far()
        trainer = 1 - seconds.get("update", 0.0) / seconds["total"] if seconds["total"] > 0 else 0.0
        return {"engine/idle_share": self.meter.take(), "trainer/idle_share": trainer}

    def write(self, metrics: dict[str, float]) -> None:
        """Adds what the run's clocks and counters say, and writes one line of metrics everywhere."""
        if metrics["step"] > 0:
            metrics |= self._idle or self._idle_shares()
        self._idle = None
        seconds = self.timer.take()
        metrics["policy_version"] = float(self.progress.policy_version)
        breaker = self.parts.judge.breaker
        metrics |= {"judge/outages": float(breaker.num_outages), "judge/outage_s": breaker.outage_s}
        metrics |= {f"seconds/{stage}": value for stage, value in seconds.items()}
        if "completion_tokens/mean" in metrics:
            num_rollouts = (metrics["groups/used"] + metrics["groups/dropped"]) * self.config.rollout.group_size
            metrics["throughput/tokens_per_s"] = (
                metrics["completion_tokens/mean"] * num_rollouts / max(seconds.get("generate", 0.0), 1e-9)
            )
            metrics["throughput/verifications_per_s"] = num_rollouts / max(seconds.get("verify", 0.0), 1e-9)
        for sink in self.sinks:
            sink.write(metrics)
        if metrics["step"] > 0:
            self.display.step(metrics)
        self.meter.take()

    def _finish(self) -> None:
        """Export, picture, summary, last lines."""
        progress = self.progress
        self.publisher.export(self.state.model, self.folder.export, policy_version=progress.policy_version)
        finish(self.parts, self.folder, progress, seconds=self.turns.seconds, say=self.display.line)

    @contextlib.contextmanager
    def _catch_interrupt(self) -> Any:
        """The first Ctrl-C asks for an orderly end; the second is the usual one."""
        loop = asyncio.get_running_loop()

        def interrupted() -> None:
            self.display.line(
                "interrupted: finishing the current update, then writing a checkpoint (again: stop at once)"
            )
            self.stopping.set()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


def _own(everyone: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a checkpoint keeps of this process. Raises UserError where there were more or fewer processes."""
    if len(everyone) != jax.process_count():
        raise UserError(
            f"the run had {len(everyone)} processes, each with its share of the problems, and is resumed with "
            f"{jax.process_count()}; use --mesh.num-processes {len(everyone)}"
        )
    return everyone[jax.process_index()]


@contextlib.contextmanager
def _told_of_files(folder: RunFolder) -> Iterator[None]:
    """Files that cannot be written end a run in one line."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # OSErrors that have nothing to do with files
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder.path} ({error.strerror or error}); make room or mend its "
            f"permissions, then go on where the run was: python scripts/train.py --resume {folder.run}"
        ) from error


def average(measured: list[dict[str, float]]) -> dict[str, float]:
    """Means over updates; maxima for `_max`, sums for `num_tokens`, the last for the learning rate. What is only
    measured on tokens of the same weights counts where there are any."""
    combined = {}
    with_same_weights = [metrics for metrics in measured if metrics["same_weights_share"] > 0]
    for name in measured[0]:
        of_same_weights = name.startswith("same_weights_drift") and with_same_weights
        values = [metrics[name] for metrics in (of_same_weights or measured)]
        if name == "learning_rate":
            combined[name] = values[-1]
        elif name == "num_tokens":
            combined["trained_tokens"] = sum(values)
        else:
            combined[name] = max(values) if name.endswith("_max") else sum(values) / len(values)
    return combined
