"""New weights for the engine: exported, loaded by the engine, older versions deleted.

In: a trainer after an update, its version. Out: a Hugging Face directory that an engine serves under that version. The
engine generates with the old version until the files of the new one are complete.
"""

from __future__ import annotations

from nouscoder_jax.config import UserError
from nouscoder_jax.loop.folder import RunFolder
from nouscoder_jax.loop.threads import in_thread
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.training.export import prune, version_dir
from nouscoder_jax.training.trainer import Trainer


async def publish(
    trainer: Trainer, engine: Engine, folder: RunFolder, *, policy_version: int, resumed: bool, timer: StageTimer
) -> None:
    """The engine serves the trainer's weights as `policy_version` when this returns; `timer` gets the stages export and
    reload.

    An engine that holds that version already is left alone, unless the run was resumed: then nobody knows what it
    holds. Raises EngineError, UserError, ProcessLostError.
    """
    if policy_version == engine.policy_version and not resumed:
        return
    target = version_dir(folder.weights, policy_version)
    with timer.stage("export"):
        try:
            await in_thread(trainer.export, target, policy_version=policy_version)
        except UserError as error:
            again = f"python scripts/train.py --resume {folder.path}"
            raise UserError(f"{error}; go on where the run was: {again}") from error
    with timer.stage("reload"):
        await engine.reload(target, policy_version=policy_version)
    prune(folder.weights, newest=policy_version)
