"""A folder of checkpoints as it lies on disk: which ones are whole, which are kept, what a killed run left.

In: RUN_DIR/checkpoints. Out: steps, reasons, file operations. Imports neither jax nor Orbax.

    STEP/                         a checkpoint; the folder gets this name only once everything in it is written
    STEP/files.json               every file of it with its size, and the step's held-out pass@1
    STEP.orbax-checkpoint-tmp*/   one that is being written, or whose run was killed meanwhile
    STEP.damaged/                 one that could not be restored; kept for its owner to look at
    STEP.aside/                   one that was whole when the run went on from an earlier step
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

INVENTORY = "files.json"
_METADATA = "_CHECKPOINT_METADATA"
_TEMPORARY = re.compile(r"\d+\.orbax-checkpoint-tmp.*")
_STEP = re.compile(r"0|[1-9]\d*")


def write_inventory(folder: Path, *, pass_at_1: float | None) -> None:
    """Writes down what lies in the items of a checkpoint, before it gets its final name."""
    items = [path for path in folder.iterdir() if path.is_dir()]
    sizes = {
        str(file.relative_to(folder)): file.stat().st_size
        for item in items
        for file in item.rglob("*")
        if file.is_file()
    }
    (folder / INVENTORY).write_text(json.dumps({"pass_at_1": pass_at_1, "files": sizes}), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What a checkpoint lacks, in a few words; None: every file is there in its full length. Reads no array."""
    try:
        for name, size in _inventory(folder)["files"].items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found} of {size} bytes"
        (folder / _METADATA).stat()
    except OSError as error:
        return f"{Path(error.filename or folder).relative_to(folder)}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{INVENTORY} is not readable"
    return None


def steps(directory: Path) -> list[int]:
    """Steps that have a folder under their final name, whole or not, in order."""
    try:
        return sorted(int(path.name) for path in directory.iterdir() if _STEP.fullmatch(path.name))
    except OSError:
        return []


def complete_scores(directory: Path) -> dict[int, float | None]:
    """The steps whose checkpoint is whole, in order, each with its pass@1 (None: not measured)."""
    scores: dict[int, float | None] = {}
    for step in steps(directory):
        folder = directory / str(step)
        if damage(folder) is None:
            try:
                scores[step] = _inventory(folder)["pass_at_1"]
            except (OSError, ValueError):  # deleted this moment, by the run that writes here
                continue
    return scores


def best(scores: Mapping[int, float | None], *, number: int) -> list[int]:
    """The `number` steps of the highest pass@1, best first; of equal ones the newest first. Steps without one never
    count."""
    measured = [(score, step) for step, score in scores.items() if score is not None]
    return [step for _, step in sorted(measured, reverse=True)[:number]]


def kept(scores: Mapping[int, float | None], *, keep: int, keep_best: int) -> set[int]:
    """The steps that stay: the newest `keep`, and the `keep_best` best."""
    return {*sorted(scores, reverse=True)[:keep], *best(scores, number=keep_best)}


def tidy(directory: Path) -> None:
    """Removes what killed runs left: checkpoints half written, and those half deleted, which are older than a whole
    one. Only for the one run that writes here. Raises OSError."""
    whole = complete_scores(directory)
    for path in list(directory.iterdir()):
        half_deleted = (
            _STEP.fullmatch(path.name) and int(path.name) not in whole and int(path.name) < max(whole, default=0)
        )
        if _TEMPORARY.fullmatch(path.name) or half_deleted:
            shutil.rmtree(path)


def remove_temporary(directory: Path, step: int) -> None:
    """Gives back the room that a failed save of `step` takes, as far as that works."""
    with contextlib.suppress(OSError):
        for path in list(directory.glob(f"{step}.orbax-checkpoint-tmp*")):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path, kind: Literal["damaged", "aside"]) -> Path:
    """Renames a checkpoint that is not to be picked any more, so that its step can be saved again. Raises OSError."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{kind}{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    return folder.rename(aside)


def reason(error: BaseException) -> tuple[str, str]:
    """Why the operating system refused, in its own words, and what helps; else the error's first line."""
    number = _errno(error)
    if number is None:
        return first_line(error), "mend that"
    helps = {
        errno.ENOSPC: "make room",
        errno.EDQUOT: "make room",
        errno.EFBIG: "allow larger files",
        errno.EACCES: "mend the folder's permissions",
        errno.EPERM: "mend the folder's permissions",
        errno.EROFS: "make the file system writable",
    }
    return os.strerror(number), helps.get(number, "mend that")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 160 characters: enough to tell what file or array it was."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _errno(error: BaseException | None) -> int | None:
    """Of the error or one that it came from; TensorStore has it in its message only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _inventory(folder: Path) -> dict:
    return json.loads((folder / INVENTORY).read_text(encoding="utf-8"))
