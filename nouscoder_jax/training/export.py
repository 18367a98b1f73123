"""Exports: the policy as a Hugging Face directory, for the engine during a run and for everyone after it.

In: a model. Out: config.json, safetensors, tokenizer files and manifest.json in one
folder that appears complete or not at all.

    prepare    one process clears what crashed exports have left and makes .NAME.part beside the folder to be
    write      all: their safetensors, and their part of the manifest          (model/weights_writer.py)
    finish     one process: config.json, tokenizer, index, manifest.json, all of it on the disk; then .NAME.part -> NAME

Whoever calls sees to it that a stage begins once all processes came through the one before. A process that dies leaves
.NAME.part at most.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import DTYPES, FILE_NAME, INDEX, FileEntry, Manifest, hash_range, read_manifest, read_part
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.hf_files import write_index
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.model.weights import describe
from nouscoder_jax.model.weights_plan import plan_files
from nouscoder_jax.model.weights_writer import gather_from, write_shards
from nouscoder_jax.training.new_folder import sync

KEPT_VERSIONS = 2
"""Versions of weights that stay in a run folder: the one that the engine serves and the one that it loads next."""

ExportDtype: TypeAlias = Literal["float32", "bfloat16"]

_VERSION = re.compile(r"policy-(\d{6,})")


def version_dir(root: Path, policy_version: int) -> Path:
    """Folder of one version's weights."""
    return Path(root) / f"policy-{policy_version:06d}"


def version_dirs(root: Path) -> list[Path]:
    """Folders of versions that are there, the newest first."""
    found = _versions(root)
    return [found[version] for version in sorted(found, reverse=True)]


def newest_version(root: Path) -> tuple[int, Path] | None:
    """The newest finished version in `root` and its folder; None: there is none."""
    whole = {version: path for version, path in _versions(root).items() if (path / FILE_NAME).exists()}
    return max(whole.items()) if whole else None


def _versions(root: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in root.glob("*") if (match := _VERSION.fullmatch(path.name))}


def export(
    model: Qwen3,
    architecture: Architecture,
    out_dir: Path,
    *,
    dtype: ExportDtype,
    tokenizer_dir: Path | None,
    policy_version: int,
) -> Manifest:
    """Writes `out_dir` with the weights in `dtype` and the tokenizer's files, and returns its manifest: all stages, in
    one process. The folder appears complete or not at all, and is on the disk then; an earlier export of that name is
    replaced.

    Raises:
        UserError: it cannot be written, or `out_dir` holds something else than an export.
    """
    try:
        prepare(out_dir)
        write(model, architecture, out_dir, dtype=dtype, policy_version=policy_version, process=0, num_processes=1)
        return finish(architecture, out_dir, dtype=dtype, tokenizer_dir=tokenizer_dir, num_processes=1)
    finally:
        discard(out_dir)


def prepare(out_dir: Path) -> None:
    """Makes room for an export of that name. What crashed exports of this folder, or of other versions, have left goes.

    Raises:
        UserError: it cannot be written, or `out_dir` holds something else than an export.
    """
    with _told(out_dir):
        _prepare(out_dir, _sibling(out_dir, "part"))


def write(
    model: Qwen3,
    architecture: Architecture,
    out_dir: Path,
    *,
    dtype: ExportDtype,
    policy_version: int,
    process: int,
    num_processes: int,
) -> None:
    """Writes this process's share. All must call it at the same time, with no other program on their devices in
    between; one that cannot write still takes part in gathering, and raises after that.

    Raises:
        UserError: this process cannot write.
    """
    temporary = _sibling(out_dir, "part")
    with _told(out_dir):
        part = write_shards(
            gather_from(model, dtype=dtype),
            plan_files(architecture, dtype=dtype, num_processes=num_processes),
            temporary,
            dtype=dtype,
            policy_version=policy_version,
            process=process,
            num_processes=num_processes,
        )
        _part(temporary, process).write_text(part.to_json())


def finish(
    architecture: Architecture,
    out_dir: Path,
    *,
    dtype: ExportDtype,
    tokenizer_dir: Path | None,
    num_processes: int,
) -> Manifest:
    """Completes what all processes have written, and gives it its name. Raises UserError where that cannot be."""
    temporary = _sibling(out_dir, "part")
    with _told(out_dir):
        names = describe(architecture, temporary, dtype=dtype, tokenizer_dir=tokenizer_dir)
        _complete(temporary, num_processes=num_processes, names=names)
        _put_in_place(temporary, out_dir)
    return read_manifest(out_dir)


def discard(out_dir: Path) -> None:
    """Removes what is there of an export that was not finished."""
    shutil.rmtree(_sibling(out_dir, "part"), ignore_errors=True)


def _sibling(folder: Path, kind: Literal["part", "old"]) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _part(folder: Path, process: int) -> Path:
    return folder / f"{FILE_NAME}.{process}"


@contextmanager
def _told(out_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {out_dir} ({error.filename or out_dir}: {error.strerror}); make room or choose a folder you "
            "may write to: earlier exports are as they were"
        ) from error


def _prepare(out_dir: Path, temporary: Path) -> None:
    """Makes an empty `temporary`; what crashed exports of this folder, or of other versions, have left goes first."""
    if out_dir.exists() and (
        not out_dir.is_dir() or (any(out_dir.iterdir()) and not (out_dir / "config.json").exists())
    ):
        raise UserError(f"{out_dir} exists and is not a model directory; choose another place for the export")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    is_version = _VERSION.fullmatch(out_dir.name)
    for kind in ("part", "old"):
        for left in out_dir.parent.glob(f".policy-*.{kind}" if is_version else _sibling(out_dir, kind).name):
            shutil.rmtree(left)
    temporary.mkdir()


def _complete(folder: Path, *, num_processes: int, names: list[str]) -> None:
    """Makes one manifest of the processes' parts, writes it with the index, and has all small files on the disk.
    `names` are those beside the safetensors."""
    parts = [_part(folder, process) for process in range(num_processes)]
    read = [read_part(part) for part in parts]
    files = {name: entry for part in read for name, entry in part.files.items()}
    tensors = {name: entry for part in read for name, entry in part.tensors.items()}
    if len(files) > 1:
        total = sum(math.prod(entry.shape) * DTYPES[entry.dtype].itemsize for entry in tensors.values())
        write_index(folder, {name: entry.file for name, entry in tensors.items()}, total_bytes=total)
        names = [*names, INDEX]
    for name in names:
        size = (folder / name).stat().st_size
        files[name] = FileEntry(bytes=size, hash=hash_range(folder / name, 0, size))
    (folder / FILE_NAME).write_text(replace(read[0], files=files, tensors=tensors).to_json())
    for part in parts:
        part.unlink()
    for name in (*names, FILE_NAME, "."):
        sync(folder / name)


def _put_in_place(temporary: Path, out_dir: Path) -> None:
    """Renames; an earlier export steps aside first and is deleted after."""
    aside = _sibling(out_dir, "old")
    if out_dir.exists():
        os.rename(out_dir, aside)
    os.rename(temporary, out_dir)
    sync(out_dir.parent)
    shutil.rmtree(aside, ignore_errors=True)


def prune(root: Path, *, newest: int) -> None:
    """Deletes the versions in `root` that are older than the KEPT_VERSIONS finished ones up to `newest`, and those
    after it, which a run that was killed has left. One that is being written has another name until it is finished."""
    found = _versions(Path(root))
    whole = sorted(version for version, path in found.items() if version <= newest and (path / FILE_NAME).exists())
    for version in sorted(found):
        if version > newest or (len(whole) > KEPT_VERSIONS and version < whole[-KEPT_VERSIONS]):
            aside = _sibling(found[version], "old")
            os.rename(found[version], aside)  # at once: no server finds half a version
            shutil.rmtree(aside)
