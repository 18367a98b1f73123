"""New weights for the engine: exported, loaded by the engine, older versions deleted.

In: the model after an update, its version. Out: a Hugging Face directory that an engine serves under that version. The
engine generates with the old version until the files of the new one are complete.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import jax

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.folder import RunFolder
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.training.export import export, prune, version_dir


class Publisher:
    """Exports of one run."""

    def __init__(
        self, config: TrainConfig, architecture: Architecture, folder: RunFolder, *, timer: StageTimer
    ) -> None:
        """`timer` gets the stages export and reload."""
        self._config, self._architecture, self._folder, self._timer = config, architecture, folder, timer

    async def publish(self, engine: Engine, model: Qwen3, *, policy_version: int, resumed: bool) -> None:
        """The engine serves `model` as `policy_version` when this returns.

        An engine that holds that version already is left alone, unless the run was resumed: then nobody knows what it
        holds. With several processes all must call it. Raises EngineError, UserError.
        """
        if policy_version == engine.policy_version and not resumed:
            return
        target = version_dir(self._folder.weights, policy_version)
        with self._timer.stage("export"):
            try:
                await asyncio.to_thread(self.export, model, target, policy_version=policy_version)
            except UserError as error:
                again = f"python scripts/train.py --resume {self._folder.run}"
                raise UserError(f"{error}; go on where the run was: {again}") from error
        with self._timer.stage("reload"):
            await engine.reload(target, policy_version=policy_version)
        if jax.process_index() == 0 or not self._config.checkpoint.weights_shared:
            prune(self._folder.weights, newest=policy_version)

    def export(self, model: Qwen3, target: Path, *, policy_version: int) -> None:
        """Writes a Hugging Face directory with the run's tokenizer."""
        target.parent.mkdir(parents=True, exist_ok=True)
        export(
            model,
            self._architecture,
            target,
            dtype=self._config.checkpoint.export_dtype,
            tokenizer_dir=Path(self._config.model.path),
            policy_version=policy_version,
            shared=self._config.checkpoint.weights_shared,
        )
