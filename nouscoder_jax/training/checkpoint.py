"""Checkpoints: everything a run needs to go on, written by Orbax in the background, complete or absent.

In: TrainState and the loop's progress (a JSON dict). Out: RUN_DIR/checkpoints/STEP/, and back: the state on any mesh.
Arrays are stored under their names (`model/layers/mlp/up_proj`), so that a checkpoint does not depend on the classes of
optax or flax. What lies in the folder, and what of it is whole: checkpoint_folder.py.

    save() --copy--> memory --thread--> STEP.orbax-checkpoint-tmp/ --files.json, rename--> STEP/ --> older ones deleted
                                             failed: removed, nothing older deleted, told by check(), wait(), ...
"""

from __future__ import annotations

import contextlib
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from nouscoder_jax.config import UserError
from nouscoder_jax.model.chunks import CHUNK_BYTES
from nouscoder_jax.training import checkpoint_folder as folders
from nouscoder_jax.training.state import TrainState, named_leaves
from nouscoder_jax.types import ProcessLostError

T = TypeVar("T")

Record = dict[str, Any]
"""What the loop wants back: step, policy version, position of the data iterator. JSON values only."""


class Checkpointer:
    """The checkpoints of one run. Close it (or use it in `with`) so that the last save reaches the disk.

    For one thread at a time. With several processes all of them call `save`, `restore_step` and `close` together, and
    one of them decides: `newest_that` chooses what to restore.

    Example:
        checkpointer = Checkpointer(run_dir / "checkpoints", keep=2, keep_best=1)
        checkpointer.save(8, state, {"step": 8}, pass_at_1=0.31)
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int,
        keep_best: int = 0,
        read_only: bool = False,
        tidies: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        """The newest `keep` checkpoints stay, and the `keep_best` of the highest pass@1.

        Makes `directory` and removes from it what a killed run left half done; `read_only` does neither, and is for
        everyone but the run itself. Of several processes only one `tidies`. `say` takes a line for people. Raises
        UserError where it cannot be written.
        """
        self.directory = Path(directory).absolute()
        self._read_only, self._tidies, self._say = read_only, tidies and not read_only, say
        self._saving: int | None = None
        """The step whose save has begun and is not known to have ended."""
        self._refused: list[int] = []
        """Steps whose save has failed."""
        try:
            if self._tidies:
                self.directory.mkdir(parents=True, exist_ok=True)
                folders.tidy(self.directory)
            self._scores = folders.complete_scores(self.directory)
            self._manager = ocp.CheckpointManager(self.directory, options=self._options(keep=keep, keep_best=keep_best))
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {error}; choose another run folder"
            ) from None
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).addFilter(_not_of_orbax)

    def save(self, step: int, state: TrainState, progress: Record, *, pass_at_1: float | None = None) -> None:
        """Copies the state off the device and returns; writing goes on in the background.

        Waits for an earlier save that is still being written: see `busy`. A step that has a checkpoint already is left
        as it is. `pass_at_1` is the held-out one of these weights, None or NaN where it was not measured. Raises
        UserError where this save, or an earlier one since the last call, failed.
        """
        self.wait()
        self._scores = folders.complete_scores(self.directory)
        if step in self._scores:
            return
        if step in self._manager.all_steps():  # set aside as damaged meanwhile, by this process or another
            self._manager.reload()
        self._saving = step
        self._scores[step] = None if pass_at_1 is None or math.isnan(pass_at_1) else pass_at_1
        leaves = named_leaves(state)
        chunks = {name: _in_chunks(name, leaf) for name, leaf in leaves.items()}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves, save_args=chunks), progress=ocp.args.JsonSave(progress)
                ),
                force=True,  # otherwise Orbax silently leaves out a step that is below another one
            )
        except Exception as error:  # Orbax hands on whatever the file system, TensorStore or jax raise
            raise self._failed(error) from error

    def busy(self) -> bool:
        """Whether a save is still being written: `save` would wait for it."""
        return self._saving is not None and self._manager.is_saving_in_progress()

    def check(self) -> None:
        """Raises UserError where a save has failed since the last call; never waits."""
        if not self.busy():
            self.wait()

    def wait(self) -> None:
        """Returns once every save is on disk. Raises UserError as `check`."""
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._saving = None
        self._scores = {step: score for step, score in self._scores.items() if step in self._manager.all_steps()}

    def close(self) -> None:
        """Waits for a running save and frees the background threads. Raises UserError as `check`, after that."""
        try:
            self.wait()
        finally:
            for _ in range(2):  # Orbax raises a failed save once in each thread, and frees nothing that time
                with contextlib.suppress(Exception):
                    self._manager.close()
            for step in self._refused:  # a thread may have written on while its files went
                folders.remove_temporary(self.directory, step)

    def is_empty(self) -> bool:
        """Whether no checkpoint was ever finished here: not even a damaged one is there."""
        return not folders.steps(self.directory) and not any(self.directory.glob("*.damaged*"))

    def complete_steps(self) -> list[int]:
        """Steps of the checkpoints that are whole on disk now, in order."""
        return list(folders.complete_scores(self.directory))

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None: there is none."""
        return max(self.complete_steps(), default=None)

    def restore(self, abstract_state: TrainState, *, step: int | None) -> tuple[TrainState, Record]:
        """The state of `step` (None: of the newest that restores), each array placed as `abstract_state` says, and the
        progress. Says which newer ones are damaged, and unless `read_only` sets them aside, as STEP.damaged.

        Raises:
            UserError: no checkpoint, one with missing or damaged files, or one of another model; it names the folder.
        """
        return self.newest_that(lambda candidate: self.restore_step(abstract_state, candidate), step=step)

    def newest_that(self, restore: Callable[[int], T], *, step: int | None) -> T:
        """What `restore` returns for the newest step that it does not raise for, or for `step`; as `restore` above."""
        self.wait()
        damaged: dict[int, str] = {}
        for candidate in sorted(folders.steps(self.directory) if step is None else [step], reverse=True):
            if lacking := folders.damage(self.directory / str(candidate)):
                damaged[candidate] = lacking
                continue
            try:
                restored = restore(candidate)
            except ProcessLostError:
                raise
            except Exception as error:  # Orbax raises Exception itself for a missing array file, and many others
                damaged[candidate] = folders.first_line(error)
                continue
            self._pass_over(damaged, candidate)
            if step is not None:
                self._step_back(candidate)
            return restored
        whole = [one for one in self.complete_steps() if one not in damaged]
        instead = f"there are whole ones of step {', '.join(map(str, whole))}" if whole else "there is no whole one"
        if not damaged or not (self.directory / str(max(damaged))).exists():
            if step is not None:
                raise UserError(f"no checkpoint of step {step} in {self.directory}; {instead}")
            raise UserError(f"no complete checkpoint in {self.directory}; give the folder of a run that has saved one")
        newest = max(damaged)
        helps = f"{instead}: --resume-step {whole[-1]}" if whole else "use another one or start a new run"
        raise UserError(
            f"checkpoint {self.directory / str(newest)} is damaged or of another model ({damaged[newest]}); {helps}"
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _options(self, *, keep: int, keep_best: int) -> ocp.CheckpointManagerOptions:
        return ocp.CheckpointManagerOptions(
            create=not self._read_only,
            read_only=self._read_only,
            preservation_policy=_NewestAndBest(lambda: self._scores, keep=keep, keep_best=keep_best),
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._finalize,
                # A folder that cannot be made would leave threads that wait for it for 20 minutes.
                create_directories_asynchronously=False,
            ),
        )

    def _finalize(self) -> None:
        """Runs in Orbax's thread once everything is written, before the folder gets its name."""
        step = self._saving
        assert step is not None
        (folder,) = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
        folders.write_inventory(folder, pass_at_1=self._scores[step])

    def _failed(self, error: BaseException) -> UserError:
        """Forgets the save under way, whose files go; the error to raise."""
        step, self._saving = self._saving, None
        assert step is not None
        if self._tidies:
            self._refused.append(step)
            folders.remove_temporary(self.directory, step)
        self._scores = folders.complete_scores(self.directory)
        with contextlib.suppress(OSError):
            self._manager.reload()
        why, helps = folders.reason(error)
        newest = max(self._scores, default=None)
        if newest == step:
            return UserError(
                f"the checkpoint of step {step} is complete, but older ones in {self.directory} could not be removed "
                f"({why}); {helps} and go on with --resume"
            )
        rest = "there is no complete one" if newest is None else f"the newest complete one, step {newest}, is kept"
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory} ({why}); {rest}; {helps} and go "
            "on with --resume"
        )

    def restore_step(self, abstract_state: TrainState, step: int) -> tuple[TrainState, Record]:
        """The state and the progress of one step. Raises whatever is wrong."""
        wanted = named_leaves(abstract_state)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore()),
        )
        structure = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(structure, [restored["state"][name] for name in wanted]), restored["progress"]

    def _pass_over(self, damaged: dict[int, str], restored: int) -> None:
        """Says which newer checkpoints are not used, and makes way for new ones of their steps."""
        for step, why in damaged.items():
            folder = self.directory / str(step)
            told = f"checkpoint {folder} is damaged ({why}); step {restored} is used instead"
            if self._tidies:
                with contextlib.suppress(OSError):
                    told += f"; the damaged one is now {folders.set_aside(folder, 'damaged')}"
            self._say(told)
        if damaged and self._tidies:
            self._scores = folders.complete_scores(self.directory)
            self._manager.reload()

    def _step_back(self, restored: int) -> None:
        """Makes way for new checkpoints of the steps after `restored`."""
        later = [step for step in folders.steps(self.directory) if step > restored]
        if not later or not self._tidies:
            return
        for step in later:
            with contextlib.suppress(OSError):
                aside = folders.set_aside(self.directory / str(step), "aside")
                self._say(f"going on from step {restored}: the checkpoint of step {step} is now {aside}")
        self._scores = folders.complete_scores(self.directory)
        self._manager.reload()


def _in_chunks(name: str, leaf: jax.Array) -> ocp.SaveArgs:
    """Large stacks of layers are split by layer."""
    by_layer = "layers" in name.split("/") and leaf.nbytes > CHUNK_BYTES
    return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,)) if by_layer else ocp.SaveArgs()


class _NewestAndBest:
    """What stays, as Orbax asks for it. Checkpoints that are not whole neither count nor go."""

    def __init__(self, scores: Callable[[], dict[int, float | None]], *, keep: int, keep_best: int) -> None:
        self._scores, self._keep, self._keep_best = scores, keep, keep_best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint whether it stays; the one being saved is among them."""
        scores = self._scores()
        kept = folders.kept(scores, keep=self._keep, keep_best=self._keep_best)
        return [checkpoint.step in kept or checkpoint.step not in scores for checkpoint in checkpoints]


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax and the tasks that it leaves behind print a traceback of each error that it also raises; the user is told
    once, in one line."""
    frames = traceback.walk_tb(record.exc_info[2]) if record.exc_info else ()
    return not any("orbax" in frame.f_code.co_filename for frame, _ in frames)
