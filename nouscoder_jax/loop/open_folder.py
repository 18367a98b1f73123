"""The folder that a run writes to: a new one, or that of the run to resume.

In: a TrainConfig, how a run goes on. Out: a RunFolder, which is made when everything that the run needs has answered;
UserError where it holds something else, or where the run would go on with another meaning.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.changes import changes, hash_files
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.checkpoint_folder import complete_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How a run goes on.

    Example:
        Resume(step=None, with_changes=False)
    """

    step: int | None
    """The checkpoint to go on from; None: the newest that is whole."""
    with_changes: bool
    """Whether a config that changes what the run means is taken."""


def open_folder(config: TrainConfig, resume: Resume | None, *, say: Callable[[str], None]) -> RunFolder:
    """The folder of the run, which `begin` makes. Raises UserError."""
    return find_new(config) if resume is None else find_resumed(config, resume, say=say)


def find_new(config: TrainConfig) -> RunFolder:
    """The folder of a new run; nothing is written. Raises UserError where it holds something or cannot be written."""
    named = config.run_dir or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder.of(Path(named), config)
    refuse_a_run(folder)
    if folder.path.is_dir() and any(path not in folder.left_by_a_failed_start for path in folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run; give --run-dir a new or empty folder")
    above = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "no permission" if above.is_dir() else "not a folder"
        raise UserError(f"cannot write the run folder {folder.path}: {above}: {reason}; give another --run-dir")
    return folder


def refuse_a_run(folder: RunFolder) -> None:
    """Raises UserError where the folder of a new run holds one: asked at first, and once more before it is made."""
    if folder.config.exists():
        raise UserError(
            f"{folder.path} already holds a run; continue it with --resume {folder.path}, or give another --run-dir"
        )


def find_resumed(config: TrainConfig, resume: Resume, *, say: Callable[[str], None]) -> RunFolder:
    """The folder of a run to resume, `config.run_dir`; nothing is written.

    Raises:
        UserError: the run has done more than `config.num_steps` steps; or `config` or a problem file differs from the
            run's own in what changes its meaning and `resume` does not allow it. With it, `say` gets the differences.
    """
    folder = RunFolder.of(Path(config.run_dir), config)
    done = max((step for step in complete_scores(folder.checkpoints) if resume.step in (None, step)), default=0)
    if done > config.num_steps:
        raise UserError(
            f"nothing to do: {folder.path} goes on after step {done}, and num_steps is {config.num_steps}; give it "
            f"more steps: {folder.resume_command} --num-steps {2 * done}"
        )
    if found := _changes(folder, config):
        told = "; ".join(found)
        if not resume.with_changes:
            raise UserError(
                f"{folder.path} would go on with changes: {told}. They change what its figures mean: drop them, start "
                "a new run, or add --resume-with-changes"
            )
        say(f"resumed with changes: {told}")
    return folder


def begin(folder: RunFolder, config: TrainConfig, *, after_step: int) -> None:
    """Writes the config that the run goes on with after `after_step`, in a new folder before anything else: from here
    on it holds a run. Raises UserError."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(config, inputs=hash_files(config), after_step=after_step)
        folder.rollouts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder.path}: {error.strerror}; mend its permissions, or give another "
            "--run-dir"
        ) from error


def _changes(folder: RunFolder, config: TrainConfig) -> list[str]:
    found = changes(folder.read_config(option="--resume"), config)
    if folder.inputs.exists():  # not in the folders of older versions
        before = json.loads(folder.inputs.read_text(encoding="utf-8"))
        found += [
            f"the file of {name} holds something else than when the run was last started"
            for name, digest in hash_files(config).items()
            if before.get(name) != digest
        ]
    return found


@contextlib.contextmanager
def explain_write_errors(folder: RunFolder) -> Iterator[None]:
    """A file that cannot be written inside the block ends the run in one line, a UserError."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # OSErrors that have nothing to do with files
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder.path} ({error.strerror or error}); make room or mend its "
            f"permissions, then go on where the run was: {folder.resume_command}"
        ) from error
