"""New weights for the engine: exported, loaded by the engine, proven to have arrived, older versions deleted.

In: a trainer after an update, its version. Out: a Hugging Face directory that an engine serves under that version, and
how far the two are apart with these weights. The engine generates with the old version until the files of the new one
are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.experience.packing import one_a_row
from nouscoder_jax.loop.setup import Components
from nouscoder_jax.loop.threads import in_thread
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.probe import Probe, pick_sequences
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.export import prune, version_dir
from nouscoder_jax.training.trainer import Trainer


def make_publisher(
    components: Components, trainer: Trainer, engine: Engine, folder: RunFolder, *, timer: StageTimer
) -> Publisher:
    """The publisher of a run, which compares trainer and engine on prompts that it trains on."""
    train = components.train
    sequences = pick_sequences(train.prompts[problem.problem_id] for problem in train.problems)
    return Publisher(components.config, trainer, engine, folder, sequences=sequences, timer=timer)


class Publisher:
    """Keeps an engine at the trainer's weights.

    Example:
        publisher = Publisher(config, trainer, engine, folder, sequences=((9, 4, 7), ...), timer=timer)
        metrics = await publisher.publish(3)
    """

    def __init__(
        self,
        config: TrainConfig,
        trainer: Trainer,
        engine: Engine,
        folder: RunFolder,
        *,
        sequences: Sequence[tuple[int, ...]],
        timer: StageTimer,
    ) -> None:
        """`sequences` are what trainer and engine are compared on; `timer` gets the stages export, reload and probe."""
        self._config, self._trainer, self._engine, self._folder = config, trainer, engine, folder
        self._sequences, self._timer = tuple(sequences), timer
        self._published: int | None = None

    async def publish(self, policy_version: int) -> dict[str, float]:
        """The engine serves the trainer's weights as `policy_version` when this returns, and computes with them what
        the trainer does: the metrics say how nearly. Nothing where it was done already.

        Raises EngineError, UserError, DriftError, ProcessLostError.
        """
        if policy_version == self._published:
            return {}
        target = version_dir(self._folder.weights, policy_version)
        await self._export(target, policy_version)
        with self._timer.stage("reload"):
            await self._engine.reload(target, policy_version=policy_version)
        prune(self._folder.weights, newest=policy_version)
        with self._timer.stage("probe"):
            drift = await self._engine.prove(await in_thread(self._probe, policy_version))
        self._published = policy_version
        return {"probe/drift_mean": drift.mean, "probe/drift_max": drift.largest}

    async def _export(self, target: Path, policy_version: int) -> None:
        with self._timer.stage("export"):
            try:
                await in_thread(self._trainer.export, target, policy_version=policy_version)
            except UserError as error:
                raise UserError(f"{error}; go on where the run was: {self._folder.resume_command}") from error

    def _probe(self, policy_version: int) -> Probe:
        """What the trainer says of the sequences. Their row is the shortest that updates have, so that attention gets
        no length that it does not get elsewhere."""
        experience, loss = self._config.experience, self._config.loss
        row_tokens = experience.row_tokens // 8
        sequences = tuple(sequence[:row_tokens] for sequence in self._sequences)
        batch, num_micro_batches = one_a_row(
            sequences, row_tokens=row_tokens, rows_per_micro_batch=experience.rows_per_micro_batch
        )
        scored = self._trainer.score(batch, num_micro_batches)
        return Probe(
            sequences=sequences,
            logprobs=tuple(tuple(scored[row, : len(sequence) - 1].tolist()) for row, sequence in enumerate(sequences)),
            policy_version=policy_version,
            max_mean=loss.max_drift_mean,
            max_largest=loss.max_drift,
        )
