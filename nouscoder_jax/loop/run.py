"""One run from its first evaluation to its last export; the diagram is in nouscoder_jax/loop/__init__.py.

In: a TrainConfig, or a run folder to resume. Out: the run folder, lines on the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Future

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.evaluation import EvaluationResult, evaluate
from nouscoder_jax.loop import folder as folders
from nouscoder_jax.loop import train_step
from nouscoder_jax.loop.changes import config_hash
from nouscoder_jax.loop.collect import Collector, make_collector
from nouscoder_jax.loop.console import finish, introduce
from nouscoder_jax.loop.folder import Resume, RunFolder
from nouscoder_jax.loop.groups import Collected, Drawer, GroupMaker, Position
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.publish import Publisher
from nouscoder_jax.loop.replay import ReplayingCollector
from nouscoder_jax.loop.setup import (
    Components,
    build,
    check_hardware,
    make_engine,
    serving,
    share_gpus,
    start_processes,
)
from nouscoder_jax.loop.threads import in_thread
from nouscoder_jax.loop.turns import Turns, record, rewind
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.sinks import JsonlSink, Sink, TensorBoardSink
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.extract import Extract, make_extract
from nouscoder_jax.rollout.probe import pick_sequences
from nouscoder_jax.training import hands
from nouscoder_jax.training.hands import Crew, RemoteTrainer
from nouscoder_jax.training.trainer import LocalTrainer, Trainer
from nouscoder_jax.types import ProcessLostError


def train(config: TrainConfig, *, resume: Resume | None) -> int:
    """Runs the experiment and returns the exit code. With `resume`, `config.run_dir` holds the run to continue.

    Of several processes the first runs it, and the others, which need nothing of `config` but how to find each other,
    train under its orders until it ends. Raises UserError where the input is wrong or the disk is full, EngineError
    where generation fails for good, ConservationError where rollouts were lost, ProcessLostError.
    """
    share_gpus(config)
    if start_processes(config) > 0:
        hands.leave(hands.serve())
    with _crew(config) as crew:
        check_hardware(config)
        components = build(config)
        trainer = RemoteTrainer(config, crew, say=print) if crew else LocalTrainer(config, say=print)
        folder = folders.reopen(config, resume, say=print) if resume else folders.create(config)
        with serving(config, folder.path / "servers", say=print) as urls, _told_of_files(folder):
            asyncio.run(_run(components, trainer, folder, resume=resume, urls=urls, crew=crew))
    if crew:
        hands.leave(0)
    return 0


def _crew(config: TrainConfig) -> contextlib.AbstractContextManager[Crew | None]:
    """The other processes, where there are any."""
    return hands.gather() if config.mesh.num_processes > 1 else contextlib.nullcontext()


async def _run(
    components: Components,
    trainer: Trainer,
    folder: RunFolder,
    *,
    resume: Resume | None,
    urls: Sequence[str],
    crew: Crew | None,
) -> None:
    async def running() -> None:
        run = await in_thread(Run, components, trainer, folder, resume=resume, urls=urls)
        if crew is not None:
            loop = asyncio.get_running_loop()
            crew.on_interrupt = lambda who: loop.call_soon_threadsafe(run.interrupt, who)
        await run.run()

    try:
        await _unless_lost(running(), crew.lost if crew else None)
    except ProcessLostError as error:
        again = f"python scripts/train.py --resume {folder.path}"
        raise ProcessLostError(f"{error}; go on from the last checkpoint, in every process: {again}") from error


async def _unless_lost(running: Awaitable[None], lost: Future[None] | None) -> None:
    """Waits for `running`, and cancels it where `lost` ends first. Raises what either raises."""
    if lost is None:
        return await running
    task, watch = asyncio.ensure_future(running), asyncio.wrap_future(lost)
    await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return watch.result()
    return task.result()


class Run:
    """A run that is going on: all parts put together."""

    def __init__(
        self,
        components: Components,
        trainer: Trainer,
        folder: RunFolder,
        *,
        resume: Resume | None,
        urls: Sequence[str],
    ) -> None:
        """With `resume` restores a checkpoint, else starts from the base model. `urls`: servers, if any."""
        self.urls, self.resumed = urls, resume is not None
        self.components, self.config, self.folder = components, components.config, folder
        self.trainer = trainer
        self.display = Display(num_steps=self.config.num_steps, stream=None)
        self.timer = StageTimer()
        self.meter = SlotMeter()
        self.stopping = asyncio.Event()
        self._idle: dict[str, float] | None = None
        """Idle shares of a step whose evaluation has begun."""
        self._probed: dict[str, float] = {}
        """How far engine and trainer were apart in the versions that no line of metrics has yet."""
        trainer.open(folder.checkpoints)
        self.progress = Progress()
        self.has_begun = resume is not None and (resume.step is not None or trainer.has_checkpoint())
        """Whether the weights are those of a step that has been finished."""
        if resume is not None and self.has_begun:
            self.progress = Progress(**trainer.restore(resume.step))
            if resume.step is not None:  # the journal is of what came after a later checkpoint
                shutil.rmtree(folder.journal, ignore_errors=True)
            self.display.at(self.progress.step)
        else:
            trainer.start()
        self.journal = Journal(folder.journal, config_hash=config_hash(self.config), say=self.display.line)
        self.turns = Turns(
            self.config,
            progress=self.progress,
            journal=self.journal,
            folder=folder,
            learner=self,
            checkpoints=trainer,
            write=self.write,
            say=self.display.line,
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
            self.components.judge.breaker.say = self.display.line
            introduce(self.components, self.trainer.architecture, self.folder, say=self.display.line)
            if self.resumed:
                self.display.line(
                    f"resumed after step {self.progress.step} with policy v{self.progress.policy_version}; the journal "
                    f"has {len(self.journal)} groups that need not be generated again"
                )
            engine = self.engine = make_engine(
                self.components, self.trainer.architecture, self.urls, say=self.display.line
            )
            prompts = self.components.train.prompts
            self.publisher = Publisher(
                self.config,
                self.trainer,
                engine,
                self.folder,
                sequences=pick_sequences(prompts[problem.problem_id] for problem in self.components.train.problems),
                timer=self.timer,
            )
            try:
                await self._publish()
                if not self.has_begun:
                    await self.turns.begin()
                self.meter.num_slots = engine.num_slots
                self.meter.take()
                await self.turns.run(self._collector(), stopping=self.stopping)
            finally:
                await engine.close()
                await self.components.judge.close()
                await in_thread(self.trainer.close)
                for sink in self.sinks:
                    sink.close()
            self.journal.prune(self.trainer.latest_step() or 0)
            await self._finish()

    def interrupt(self, who: str) -> None:
        """Asks for an orderly end after the update under way. Slurm tells all processes at once: once is enough."""
        if self.stopping.is_set():
            return
        self.display.line(f"{who}: finishing the current update, then writing a checkpoint (again: stop at once)")
        self.stopping.set()

    def prepare(self, collected: Collected) -> Collected:
        """The batch with its advantages."""
        return train_step.with_advantages(collected, config=self.config)

    async def update(self, collected: Collected) -> dict[str, float]:
        """The update, in a thread, and the new weights to the engine; an engine on the same GPUs gives its memory back
        meanwhile if the config says so. Nothing where there is no group."""
        train_step.check_full(collected, config=self.config, last_step=self.progress.step)
        if not collected.used:
            return {}
        if self.config.server.memory_saver:
            await self.engine.release_memory()
        try:
            metrics = await in_thread(
                train_step.train_on, collected, self.trainer, self.progress, config=self.config, timer=self.timer
            )
        finally:
            if self.config.server.memory_saver:
                await self.engine.resume_memory()
        if metrics["update/skipped"]:
            self.display.line(
                f"step {collected.step}: {metrics['update/skipped']:.0f} updates were not finite and were not taken "
                f"({self.progress.skipped} so far)"
            )
        await self._publish()
        return metrics

    async def evaluate(self) -> dict[str, float]:
        """Held-out pass@1 of the weights that the engine serves."""
        self._idle = self._idle_shares()
        with self.timer.stage("evaluate"):
            result = await self._evaluate()
        measured = "was not measured" if math.isnan(result.pass_at_1) else f"{result.pass_at_1:.1%}"
        self.display.line(
            f"held-out pass@1 {measured} ({len(self.components.held_out.problems)} problems x "
            f"{self.config.evaluation.samples_per_problem} samples, policy v{self.progress.policy_version})"
        )
        return {
            "held_out/pass_at_1": result.pass_at_1,
            "held_out/truncated_share": result.truncated_share,
            "held_out/completion_tokens_mean": result.completion_tokens_mean,
            "held_out/judge_failures": float(result.num_judge_failures),
            "held_out/engine_failures": float(result.num_engine_failures),
        }

    async def save(self, pass_at_1: float | None) -> None:
        """A checkpoint of where the run stands."""
        with self.timer.stage("checkpoint"):
            step, stored = self.progress.step, json.loads(json.dumps(record(self.progress)))
            await in_thread(self.trainer.checkpoint, step, stored, pass_at_1=pass_at_1)

    async def _publish(self) -> None:
        self._probed |= await self.publisher.publish(self.progress.policy_version)

    async def _evaluate(self) -> EvaluationResult:
        evaluation, held_out = self.config.evaluation, self.components.held_out
        return await evaluate(
            held_out.problems,
            held_out.prompts,
            engine=self.engine,
            judge=self.components.judge,
            samples_per_problem=evaluation.samples_per_problem,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
            top_k=evaluation.top_k,
            max_completion_tokens=evaluation.max_completion_tokens,
            seed=self.config.seed,
            decode=self.components.prompt_maker.decode,
            extract=self._extract(),
            on_progress=lambda done, total: self.display.progress("evaluate", done=done, total=total),
        )

    def _extract(self) -> Extract:
        maker = self.components.prompt_maker
        rule = self.config.data.extract_rule
        return make_extract(rule, decode=maker.decode, think_token_ids=maker.think_token_ids)

    def _collector(self) -> ReplayingCollector:
        train = self.components.train
        stream = problem_stream(len(train.problems), seed=self.config.seed)
        progress = self.display.progress
        wave: Counter[str] = Counter()

        def finished(stage: str) -> None:
            wave[stage] += 1
            total = self.config.rollout.groups_per_step * self.config.rollout.group_size
            progress(stage, done=(wave[stage] - 1) % total + 1, total=total)

        maker = GroupMaker(
            self.config,
            engine=self.engine,
            judge=self.components.judge,
            journal=self.journal,
            problems=train.problems,
            prompts=train.prompts,
            decode=self.components.prompt_maker.decode,
            extract=self._extract(),
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
        metrics |= self._probed
        self._idle, self._probed = None, {}
        seconds = self.timer.take()
        metrics["policy_version"] = float(self.progress.policy_version)
        breaker = self.components.judge.breaker
        metrics |= {"judge/outages": float(breaker.num_outages), "judge/outage_s": breaker.outage_s}
        metrics |= {f"seconds/{stage}": value for stage, value in seconds.items()}
        if "completion_tokens/mean" in metrics:
            num_rollouts = (metrics["groups/used"] + metrics["groups/dropped"]) * self.config.rollout.group_size
            if seconds.get("generate"):  # groups of the journal take no time
                metrics["throughput/tokens_per_s"] = (
                    metrics["completion_tokens/mean"] * num_rollouts / seconds["generate"]
                )
            if seconds.get("verify"):
                metrics["throughput/verifications_per_s"] = num_rollouts / seconds["verify"]
        for sink in self.sinks:
            sink.write(metrics)
        if metrics["step"] > 0:
            self.display.step(metrics)
        self.meter.take()

    async def _finish(self) -> None:
        """Export, picture, summary, last lines."""
        progress = self.progress
        await in_thread(self.trainer.export, self.folder.export, policy_version=progress.policy_version)
        finish(self.components, self.folder, progress, seconds=self.turns.seconds, say=self.display.line)

    @contextlib.contextmanager
    def _catch_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks for an orderly end; the second is the usual one."""
        loop = asyncio.get_running_loop()

        def interrupted(number: signal.Signals) -> None:
            self.interrupt("interrupted" if number == signal.SIGINT else number.name)
            loop.remove_signal_handler(number)

        caught = (signal.SIGINT, signal.SIGTERM)
        for number in caught:
            loop.add_signal_handler(number, interrupted, number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


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
            f"permissions, then go on where the run was: python scripts/train.py --resume {folder.path}"
        ) from error
