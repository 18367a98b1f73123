"""The folder that a run writes to: a new one, or that of the run to resume.

In: a TrainConfig, how a run goes on. Out: a RunFolder that can be written; UserError where it holds something else, or
where the run would go on with another meaning.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.changes import changes, hash_files
from nouscoder_jax.run_folder import RunFolder


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
    """The folder of the run. Raises UserError."""
    return create(config) if resume is None else reopen(config, resume, say=say)


def create(config: TrainConfig) -> RunFolder:
    """A new run folder. Raises UserError where it already holds a run or cannot be written."""
    named = config.run_dir or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RunFolder.of(Path(named), config)
    if folder.config.exists():
        raise UserError(
            f"{folder.path} already holds a run; continue it with --resume {folder.path}, or give another --run-dir"
        )
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run; give --run-dir a new or empty folder")
    try:
        folder.rollouts.mkdir(parents=True, exist_ok=True)
        folder.write_config(config, inputs=hash_files(config))
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder.path}: {error.strerror}; give another --run-dir"
        ) from error
    return folder


def reopen(config: TrainConfig, resume: Resume, *, say: Callable[[str], None]) -> RunFolder:
    """The folder of a run to resume, `config.run_dir`; keeps the config as it is now.

    Raises:
        UserError: it cannot be written, or `config` or a problem file differs from the run's own in what changes its
            meaning and `resume` does not allow it. With it, `say` gets the differences.
    """
    folder = RunFolder.of(Path(config.run_dir), config)
    if found := _changes(folder, config):
        told = "; ".join(found)
        if not resume.with_changes:
            raise UserError(
                f"{folder.path} would go on with changes: {told}. They change what its figures mean: drop them, start "
                "a new run, or add --resume-with-changes"
            )
        say(f"resumed with changes: {told}")
    try:
        folder.rollouts.mkdir(parents=True, exist_ok=True)
        folder.write_config(config, inputs=hash_files(config))
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder.path}: {error.strerror}; mend its permissions") from error
    return folder


def _changes(folder: RunFolder, config: TrainConfig) -> list[str]:
    found = changes(folder.read_config(option="--resume"), config)
    if folder.inputs.exists():  # not in the folders of older versions
        before = json.loads(folder.inputs.read_text(encoding="utf-8"))
        found += [
            f"the file of {name} holds something else than when the run began"
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
            f"permissions, then go on where the run was: python scripts/train.py --resume {folder.path}"
        ) from error
