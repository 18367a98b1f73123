"""One run from its first evaluation to its last export; the diagram is in nouscoder_jax/loop/__init__.py.

In: a TrainConfig, or a run folder to resume. Out: the run folder, lines on the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.evaluation import EvaluationResult, evaluate
from nouscoder_jax.experience.filters import assign_advantages
from nouscoder_jax.experience.packing import pack, pick_row_tokens
from nouscoder_jax.loop import folder as folders
from nouscoder_jax.loop.collect import Collected, Collector, step_metrics
from nouscoder_jax.loop.drift import check_gate
from nouscoder_jax.loop.folder import RunFolder, rollout_line
from nouscoder_jax.loop.parts import Parts, build, make_engine
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.plot import plot_pass_at_1
from nouscoder_jax.metrics.sinks import JsonlSink, Sink, TensorBoardSink, read_jsonl
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.sharding import largest_of_processes, of_all_processes
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.export import export, prune, version_dir
from nouscoder_jax.training.state import TrainState, abstract, from_model
from nouscoder_jax.types import Batch, DriftError, Experience
from nouscoder_jax.verifier.breaker import OutageError
from nouscoder_jax.verifier.extract import extract_program


@dataclass(kw_only=True)
class Progress:
    """Where a run stands, apart from its weights; kept with every checkpoint as JSON.

    Example:
        Progress(step=8, policy_version=8, next_group_id=160, stream_state={...}, seconds=61.2)
    """

    step: int = 0
    policy_version: int = 0
    """Version that the engine serves; +1 for each update."""
    next_group_id: int = 0
    stream_state: dict[str, Any] | None = None
    seconds: float = 0.0
    """Wall seconds of all sessions of the run."""
    rollouts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("drawn", "trained", "filtered", "quarantined"), 0)
    )
    """Rollouts so far: drawn = trained + filtered + quarantined."""


def train(config: TrainConfig, *, resume: bool) -> Path:
    """Runs the experiment and returns its folder. With `resume`, `config.run_dir` holds the run to continue.

    Raises UserError where the input is wrong, EngineError where generation fails for good.
    """
    parts = build(config)
    folder = (folders.reopen if resume else folders.create)(config, process=jax.process_index())
    run = Run(parts, folder, resume=resume)
    asyncio.run(run.run())
    return folder.path


class Run:
    """A run that is going on."""

    def __init__(self, parts: Parts, folder: RunFolder, *, resume: bool) -> None:
        """Restores the newest checkpoint with `resume`, else starts from the base model."""
        self.parts, self.config, self.folder = parts, parts.config, folder
        self.checkpointer = Checkpointer(folder.checkpoints, keep=self.config.checkpoint.keep)
        self.progress = Progress()
        if resume:
            target = abstract(parts.architecture, parts.optimizer, mesh=parts.mesh)
            self.state, stored = self.checkpointer.restore(target, step=None)
            self.progress = Progress(**stored)
        else:
            self.state: TrainState = from_model(parts.base_model, parts.architecture, parts.optimizer, mesh=parts.mesh)
        self.started = time.monotonic() - self.progress.seconds
        self.updates_of_step = 0
        """Optimizer steps taken since the last finished step: above 0 the state is no step's."""
        self.timer = StageTimer()
        self.trained_steps = asyncio.Condition()
        self.stopping = asyncio.Event()
        resume_step = self.progress.step if resume else None
        self.sinks: list[Sink] = [JsonlSink(folder.metrics, resume_step=resume_step)]
        if self.config.logging.tensorboard:
            self.sinks.append(TensorBoardSink(folder.tensorboard, resume_step=resume_step))
        self.display = Display(num_steps=self.config.num_steps, first_step=self.progress.step, stream=None)

    async def run(self) -> None:
        """Steps until the last one, or until Ctrl-C; then evaluation, checkpoint, export and summary."""
        with self.display, self._catch_interrupt():
            self.parts.judge.breaker.say = self.display.line
            self._introduce()
            engine = make_engine(self.parts)
            try:
                await self._publish(engine, resumed=self.progress.step > 0)
                if self.progress.step == 0:
                    await self._evaluate_and_write(engine, {"step": 0, "policy_version": 0})
                    self._checkpoint()
                await self._steps(engine)
            finally:
                await engine.close()
                await self.parts.judge.close()
                self.checkpointer.close()
                for sink in self.sinks:
                    sink.close()
            self._finish()

    async def _steps(self, engine: Engine) -> None:
        """The producer fills a bounded queue with batches; this side takes them and trains."""
        queue: asyncio.Queue[Collected] = asyncio.Queue(maxsize=max(1, self.config.rollout.max_staleness))
        producer = asyncio.create_task(self._produce(self._collector(engine), engine, queue))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            while self.progress.step < self.config.num_steps and not self.stopping.is_set():
                getting = asyncio.create_task(queue.get())
                await asyncio.wait({getting, producer, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    if producer.done():
                        producer.result()  # raises what ended it
                    break
                await self._step(engine, getting.result())
        except (OutageError, DriftError, UserError):
            if not self.updates_of_step:
                self._checkpoint_new_steps()
            raise
        finally:
            for task in (producer, stopping):
                task.cancel()
            await asyncio.gather(producer, stopping, return_exceptions=True)
        self._checkpoint_new_steps()

    def _checkpoint_new_steps(self) -> None:
        if self.progress.step > (self.checkpointer.latest_step() or 0):
            self._checkpoint()

    async def _produce(self, collector: Collector, engine: Engine, queue: asyncio.Queue[Collected]) -> None:
        """Draws each step's batch as soon as the engine's weights are new enough for it."""
        ahead = self.config.rollout.max_staleness // self.config.experience.updates_per_batch
        for step in range(self.progress.step + 1, self.config.num_steps + 1):
            async with self.trained_steps:
                await self.trained_steps.wait_for(lambda step=step: self.progress.step >= step - 1 - ahead)
            await queue.put(await collector.collect(step))

    async def _step(self, engine: Engine, collected: Collected) -> None:
        """One turn of the loop: update, new weights to the engine, metrics, now and then evaluation and checkpoint."""
        collected = await asyncio.to_thread(self._with_advantages, collected)
        metrics = {"step": float(collected.step)} | step_metrics(collected, policy_version=self.progress.policy_version)
        self.folder.write_rollouts(
            collected.step,
            (rollout_line(collected.step, e, g.fate.value) for g in collected.groups for e in g.experiences),
        )
        await asyncio.to_thread(self._check_full, collected)
        if await asyncio.to_thread(largest_of_processes, len(collected.used)):
            metrics |= await asyncio.to_thread(self._update, collected)
            await self._publish(engine, resumed=False)
        else:
            self.display.line(
                f"step {collected.step}: no update: all {len(collected.groups)} groups were dropped "
                f"({told(collected.fates)}); the weights stay"
            )
        for message in collected.judge_failures[:1]:
            self.display.line(
                f"step {collected.step}: the judge failed on {len(collected.judge_failures)} rollouts, which are not "
                f"trained on; the first: {message}"
            )
        self._count(collected)
        self.progress.stream_state = collected.stream_state
        self.progress.next_group_id = collected.next_group_id
        self.progress.step = collected.step
        self.updates_of_step = 0
        evaluation = self.config.evaluation
        is_last = collected.step == self.config.num_steps
        if is_last or (evaluation.every_steps and collected.step % evaluation.every_steps == 0):
            await self._evaluate_and_write(engine, metrics)
        else:
            self._write(metrics)
        if is_last or collected.step % self.config.checkpoint.every_steps == 0:
            self._checkpoint()
        async with self.trained_steps:
            self.trained_steps.notify_all()

    def _with_advantages(self, collected: Collected) -> Collected:
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

    def _check_full(self, collected: Collected) -> None:
        """Raises UserError where the batch of any process is short and the config wants to stop then."""
        config, num_groups = self.config, self.config.rollout.groups_per_step // self.config.mesh.num_processes
        lacking = num_groups - len(collected.used)
        if config.experience.short_batch == "stop" and largest_of_processes(lacking) > 0:
            raise UserError(
                f"step {collected.step}: {len(collected.groups)} groups drawn (experience.max_draws_per_batch is "
                f"{config.experience.max_draws_per_batch}) gave {len(collected.used)} of the {num_groups} that a batch "
                f"needs ({told(collected.fates)}); use problems that the policy solves sometimes, draw more, or train "
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
                self.updates_of_step += 1
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
        groups = config.rollout.groups_per_step // config.mesh.num_processes // config.experience.updates_per_batch
        return groups * config.rollout.group_size

    async def _publish(self, engine: Engine, *, resumed: bool) -> None:
        """Exports the weights and has the engine take them. The base model needs that only where an engine is resumed
        or does not hold it yet."""
        version = self.progress.policy_version
        if version == engine.policy_version and not resumed:
            return
        target = version_dir(self.folder.weights, version)
        with self.timer.stage("export"):
            await asyncio.to_thread(self._export, target)
        with self.timer.stage("reload"):
            await engine.reload(target, policy_version=version)
        prune(self.folder.weights)

    def _export(self, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        dtype = self.config.checkpoint.export_dtype
        tokenizer_dir = Path(self.config.model.path)
        export(self.state.model, self.parts.architecture, target, dtype=dtype, tokenizer_dir=tokenizer_dir)

    async def _evaluate_and_write(self, engine: Engine, metrics: dict[str, float]) -> None:
        with self.timer.stage("evaluate"):
            result = await self._evaluate(engine)
        self.display.line(
            f"held-out pass@1 {result.pass_at_1:.1%} ({len(self.parts.held_out.problems)} problems x "
            f"{self.config.evaluation.samples_per_problem} samples, policy v{self.progress.policy_version})"
        )
        self._write(
            metrics
            | {
                "held_out/pass_at_1": result.pass_at_1,
                "held_out/truncated_share": result.truncated_share,
                "held_out/completion_tokens_mean": result.completion_tokens_mean,
                "held_out/judge_failures": float(result.num_judge_failures),
            }
        )

    async def _evaluate(self, engine: Engine) -> EvaluationResult:
        evaluation, held_out = self.config.evaluation, self.parts.held_out
        return await evaluate(
            held_out.problems,
            held_out.prompts,
            engine=engine,
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

    def _collector(self, engine: Engine) -> Collector:
        train = self.parts.train
        stream = problem_stream(
            len(train.problems),
            seed=self.config.seed,
            process_index=jax.process_index(),
            num_processes=jax.process_count(),
        )
        if self.progress.stream_state is not None:
            stream.set_state(self.progress.stream_state)
        return Collector(
            self.config,
            engine=engine,
            judge=self.parts.judge,
            problems=train.problems,
            prompts=train.prompts,
            decode=self.parts.prompt_maker.decode,
            stream=stream,
            next_group_id=self.progress.next_group_id,
            num_processes=jax.process_count(),
            timer=self.timer,
            on_progress=lambda stage, done, total: self.display.progress(stage, done=done, total=total),
        )

    def _count(self, collected: Collected) -> None:
        counts = self.progress.rollouts
        for experience in collected.experiences:
            counts["drawn"] += 1
            kind = "trained" if experience.trainable else "quarantined" if experience.reward is None else "filtered"
            counts[kind] += 1

    def _write(self, metrics: dict[str, float]) -> None:
        """Adds what the loop itself knows, and writes one line of metrics everywhere."""
        seconds = self.timer.take()
        metrics["policy_version"] = float(self.progress.policy_version)
        metrics |= {f"rollouts/{name}": float(count) for name, count in self.progress.rollouts.items()}
        metrics["rollouts/in_flight"] = float(
            2 * self.progress.rollouts["drawn"] - sum(self.progress.rollouts.values())
        )
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

    def _checkpoint(self) -> None:
        self.progress.seconds = time.monotonic() - self.started
        with self.timer.stage("checkpoint"):
            self.checkpointer.save(self.progress.step, self.state, vars(self.progress) | {})

    def _introduce(self) -> None:
        """The first lines: what judges, what generates, what is trained on."""
        parts, say = self.parts, self.display.line
        say(f"sandbox: {parts.judge.name}")
        say(f"run folder: {self.folder.path}")
        num_params = sum(leaf.size for leaf in jax.tree.leaves(parts.base_model))
        say(
            f"policy: {self.config.model.path} ({num_params / 1e6:.2f} million parameters) on {parts.mesh.size} x "
            f"{jax.devices()[0].device_kind}"
        )
        for name, problem_set in (("training", parts.train), ("held-out", parts.held_out)):
            left_out = (
                f", {problem_set.num_left_out} left out: prompt longer than {self.config.data.max_prompt_tokens} tokens"
                if problem_set.num_left_out
                else ""
            )
            say(f"{name} problems: {len(problem_set.problems)}{left_out}")
        if self.progress.step:
            say(f"resumed after step {self.progress.step} with policy v{self.progress.policy_version}")

    def _finish(self) -> None:
        """Export, picture, summary, last lines."""
        self._export(self.folder.export)
        lines = read_jsonl(self.folder.metrics)
        held_out = _curve(lines, "held_out/pass_at_1")
        training = _curve(lines, "solved_share")
        plot_pass_at_1(
            self.folder.plot, held_out, training=training, title=f"{self.config.name}, seed {self.config.seed}"
        )
        finished = self.progress.step >= self.config.num_steps
        after = held_out[-1][1] if finished else None
        summary = {
            "finished": finished,
            "pass_at_1_before": held_out[0][1],
            "pass_at_1_after": after,
            "steps": self.progress.step,
            "seconds": round(time.monotonic() - self.started, 1),
            "seed": self.config.seed,
            "policy_version": self.progress.policy_version,
            "rollouts": self.progress.rollouts,
            "held_out_problems": len(self.parts.held_out.problems),
            "samples_per_problem": self.config.evaluation.samples_per_problem,
            "sandbox": self.parts.judge.name,
        }
        self.folder.write_summary(summary)
        say = self.display.line
        if finished:
            say(
                f"held-out pass@1: {summary['pass_at_1_before']:.1%} before, {after:.1%} after "
                f"{self.progress.step} steps ({summary['seconds']:.0f} s)"
            )
        else:
            say(f"stopped after step {self.progress.step}; everything up to it is kept")
        say(f"run folder: {self.folder.path} (weights for transformers in export/, curve in pass_at_1.png)")
        more = "" if not finished else f" --num-steps {2 * self.config.num_steps}"
        say(f"resume: python scripts/train.py --resume {self.folder.run}{more}")

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


def _curve(lines: Sequence[Mapping[str, int | float | None]], name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, where it was measured."""
    return [(int(line["step"] or 0), value) for line in lines if (value := line.get(name)) is not None]


def told(fates: Mapping[str, int]) -> str:
    """What became of groups, in words: "3 equal, 1 overlong"."""
    return ", ".join(f"{number} {fate}" for fate, number in sorted(fates.items()))


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
