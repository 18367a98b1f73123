"""Checkpoints: everything a run needs to go on, written by Orbax in the background, complete or absent.

In: TrainState and the loop's progress (a JSON dict). Out: RUN_DIR/checkpoints/STEP/, and back: the state on any mesh.
Arrays are stored under their names (`model/layers/mlp/up_proj`), so that a checkpoint does not depend on the classes of
optax or flax. A folder gets its final name only once everything in it is on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from nouscoder_jax.config import UserError
from nouscoder_jax.training.state import TrainState, named_leaves

Progress = dict[str, Any]
"""What the loop wants back: step, policy version, position of the data iterator. JSON values only."""


class Checkpointer:
    """The checkpoints of one run. Close it (or use it in `with`) so that the last save reaches the disk."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        """Makes `directory` where it does not exist; the newest `keep` checkpoints stay."""
        self.directory = Path(directory).absolute()
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True),
            )
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {error}; choose another run folder"
            ) from None

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Copies the state off the device and returns; writing goes on in the background. A step that has a checkpoint
        already is left as it is."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(named_leaves(state)), progress=ocp.args.JsonSave(progress)
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def restore(self, abstract_state: TrainState, *, step: int | None) -> tuple[TrainState, Progress]:
        """The state of `step` (None: the newest), each array placed as `abstract_state` says, and the progress.

        Raises:
            UserError: no checkpoint, one with missing or damaged files, or one of another model; it names the folder.
        """
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise UserError(f"no complete checkpoint in {self.directory}; give the folder of a run that has saved one")
        wanted = named_leaves(abstract_state)
        folder = self.directory / str(step)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore()),
            )
        except Exception as error:  # Orbax raises Exception itself for a missing array file, and many others besides
            raise UserError(
                f"checkpoint {folder} is damaged or of another model ({_first_line(error)}); use another one "
                "or start a new run"
            ) from error
        structure = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(structure, [restored["state"][name] for name in wanted]), restored["progress"]

    def wait(self) -> None:
        """Returns once every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for running saves and frees the background threads."""
        self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 160 characters: enough to tell what file or array it was."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
