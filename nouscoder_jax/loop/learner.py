"""The side of a run that has weights: updates of them, what the engine gets, evaluations, checkpoints.

In: batches of groups, a Trainer, an Engine. Out: metrics; weights that are trained, served, measured and kept.
"""

from __future__ import annotations

import json
import math

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.evaluation import EvaluationResult, evaluate
from nouscoder_jax.loop import train_step
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.publish import Publisher
from nouscoder_jax.loop.recorder import Recorder
from nouscoder_jax.loop.setup import Components
from nouscoder_jax.loop.stored import sample_line
from nouscoder_jax.loop.threads import in_thread
from nouscoder_jax.loop.turns import record
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.sampler import sampling_of
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.trainer import Trainer


class PolicyLearner:
    """The Learner (loop/turns.py) of a Trainer and an Engine."""

    def __init__(
        self,
        components: Components,
        trainer: Trainer,
        engine: Engine,
        publisher: Publisher,
        folder: RunFolder,
        *,
        progress: Progress,
        recorder: Recorder,
        display: Display,
    ) -> None:
        """`progress` counts versions and skipped updates; `folder` gets held-out samples."""
        self._folder = folder
        self._components, self._config = components, components.config
        self._trainer, self._engine, self._publisher = trainer, engine, publisher
        self._progress, self._recorder, self._display = progress, recorder, display

    def prepare(self, collected: Collected) -> Collected:
        """The batch with its advantages."""
        return train_step.with_advantages(collected, config=self._config)

    async def update(self, collected: Collected) -> dict[str, float]:
        """The update, in a thread, and the new weights to the engine; an engine on the same GPUs gives its memory back
        meanwhile if the config says so. Nothing where there is no group."""
        train_step.check_full(collected, config=self._config, last_step=self._progress.step)
        if not collected.used:
            return {}
        if self._config.server.memory_saver:
            await self._engine.release_memory()
        try:
            metrics = await in_thread(
                train_step.train_on,
                collected,
                self._trainer,
                self._progress,
                config=self._config,
                timer=self._recorder.timer,
            )
        finally:
            if self._config.server.memory_saver:
                await self._engine.resume_memory()
        if metrics["update/skipped"]:
            self._display.line(
                f"step {collected.step}: {metrics['update/skipped']:.0f} updates were not finite and were not taken "
                f"({self._progress.skipped} so far)"
            )
        await self.publish()
        return metrics

    async def publish(self) -> None:
        """The engine serves the weights as they are; how far the two are apart comes with the next line of metrics."""
        self._recorder.add(await self._publisher.publish(self._progress.policy_version))

    async def evaluate(self) -> dict[str, float]:
        """Held-out pass@1 of the weights that the engine serves; its samples are kept."""
        settings, held_out = self._config.evaluation, self._components.held_out
        step = self._progress.step
        num_samples = samples_of_an_evaluation(self._config, step=step)
        self._recorder.keep_idle_shares()
        with self._recorder.timer.stage("evaluate"):
            result = await evaluate(
                held_out.problems,
                held_out.prompts,
                engine=self._engine,
                judge=self._components.judge,
                sampling=sampling_of(settings, seed=self._config.seed),
                samples_per_problem=num_samples,
                decode=self._components.prompt_maker.decode,
                extract=self._components.extract,
                on_progress=lambda done, total: self._display.progress("evaluate", done=done, total=total),
            )
        lines = [sample_line(step, rollout, verdict) for rollout, verdict in result.samples]
        await in_thread(self._folder.write_held_out, step, lines)
        measured = "was not measured" if math.isnan(result.pass_at_1) else f"{result.pass_at_1:.1%}"
        self._display.line(
            f"held-out pass@1 {measured} ({len(held_out.problems)} problems x {num_samples} samples, "
            f"policy v{self._progress.policy_version})"
        )
        return held_out_metrics(result)

    async def save(self, pass_at_1: float | None) -> None:
        """A checkpoint of where the run stands."""
        with self._recorder.timer.stage("checkpoint"):
            step, stored = self._progress.step, json.loads(json.dumps(record(self._progress)))
            await in_thread(self._trainer.checkpoint, step, stored, pass_at_1=pass_at_1)


def samples_of_an_evaluation(config: TrainConfig, *, step: int) -> int:
    """Completions of each held-out prompt after `step`: all at the beginning and at the end, whose figures are the
    run's; between them those of the lowest numbers, which show the way at little cost."""
    settings = config.evaluation
    if step in (0, config.num_steps) or settings.samples_between == 0:
        return settings.samples_per_problem
    return min(settings.samples_between, settings.samples_per_problem)


def held_out_metrics(result: EvaluationResult) -> dict[str, float]:
    """An evaluation as metrics."""
    return {
        "held_out/pass_at_1": result.pass_at_1,
        "held_out/truncated_share": result.truncated_share,
        "held_out/completion_tokens_mean": result.completion_tokens_mean,
        "held_out/judge_failures": float(result.num_judge_failures),
        "held_out/engine_failures": float(result.num_engine_failures),
    }
