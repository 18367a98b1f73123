"""A folder that appears complete or not at all, and the small files that travel from one folder to another.

In: the folder to be, the bytes that it will hold. Out: .NAME.part beside it, to be filled; then NAME, on the disk. What
a crash leaves is .NAME.part, which the next try clears away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from nouscoder_jax.config import UserError

_LEFT_OUT = {".cache", ".git"}
"""Folders that belong to whoever has fetched a directory, and not to it."""


def carried(folder: Path, left_out: Container[str]) -> list[Path]:
    """Every file of a folder, relative to it, but those at its top that are named in `left_out`."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if path.parts[0] not in left_out and not _LEFT_OUT & set(path.parts[:-1])]


def copy_files(source: Path, names: list[Path], target: Path) -> None:
    """Copies files of a folder, their contents only, to the same places in another. Raises OSError."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def size_of(folder: Path, names: list[Path]) -> int:
    """Bytes of files of a folder."""
    return sum((folder / name).stat().st_size for name in names)


@contextmanager
def new_folder(out_dir: Path, *, num_bytes: int) -> Iterator[Path]:
    """A folder to fill, which becomes `out_dir` at the end, all of it on the disk; after a failure there is neither.

    Raises:
        UserError: `out_dir` holds something or cannot be written, or there is no room for `num_bytes`.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(islice(out_dir.iterdir(), 1))):
        raise UserError(f"{out_dir} already holds something; give --out a folder that does not exist or is empty")
    part = out_dir.absolute().with_name(f".{out_dir.absolute().name}.part")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        if part.exists():
            shutil.rmtree(part)
        free = shutil.disk_usage(out_dir.parent).free
        if free < num_bytes:
            raise UserError(
                f"{out_dir} needs {num_bytes / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free; make room or "
                "give --out a folder on another disk"
            )
        part.mkdir()
        try:
            yield part
            _sync_tree(part)
            if out_dir.exists():
                out_dir.rmdir()
            os.rename(part, out_dir)
            sync(out_dir.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out_dir} ({error.filename or part}: {error.strerror}); make room or give --out a folder "
            "that you may write to"
        ) from error


def _sync_tree(folder: Path) -> None:
    """Returns once all files and folders in it are on the disk; those that are already cost nothing."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def sync(path: Path) -> None:
    """Returns once a file or folder is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
