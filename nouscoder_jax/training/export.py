"""Exports: the policy as a Hugging Face directory, for the engine during a run and for everyone after it.

In: a model. Out: config.json, safetensors, tokenizer files and manifest.json in one
folder that appears complete or not at all.

    prepare    process 0 clears what crashed exports have left and makes .NAME.part beside the folder to be
    write      all: their safetensors, and their part of the manifest          (model/weights_writer.py)
    finish     process 0: config.json, tokenizer, index, manifest.json, all of it on the disk; then .NAME.part -> NAME

After each stage the processes agree that all of them came through. A process that dies leaves .NAME.part at most.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import jax

from nouscoder_jax import sharding
from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import DTYPES, FILE_NAME, FileEntry, Manifest, hash_range, read_manifest, read_part
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.hf_files import INDEX, write_index
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.model.weights import describe
from nouscoder_jax.model.weights_plan import plan_files
from nouscoder_jax.model.weights_writer import gather_from, write_shards
from nouscoder_jax.training.new_folder import sync

KEPT_VERSIONS = 2
"""Versions of weights that stay in a run folder: the one that the engine serves and the one that it loads next."""

_VERSION = re.compile(r"policy-(\d{6,})")
_T = TypeVar("_T")


def version_dir(root: Path, policy_version: int) -> Path:
    """Folder of one version's weights."""
    return Path(root) / f"policy-{policy_version:06d}"


def export(
    model: Qwen3,
    architecture: Architecture,
    out_dir: Path,
    *,
    dtype: Literal["float32", "bfloat16"],
    tokenizer_dir: Path | None,
    policy_version: int,
    shared: bool,
) -> Manifest:
    """Writes `out_dir` with the weights in `dtype` and the tokenizer's files, and returns its manifest. The folder
    appears complete or not at all, and is on the disk then; an earlier export of that name is replaced.

    With several processes all must call it at the same time, with no other program on their devices in between.
    `shared`: they see one `out_dir` and each writes its part of it. Else each writes a whole copy, to an `out_dir` of
    its own.

    Raises:
        UserError: a process cannot write, or `out_dir` holds something else than an export; in all processes.
    """
    out_dir = Path(out_dir)
    process, num_processes = (jax.process_index(), jax.process_count()) if shared else (0, 1)
    leads = process == 0
    temporary = _sibling(out_dir, "part")
    shards = plan_files(architecture, dtype=dtype, num_processes=num_processes)

    def write() -> None:
        part = write_shards(
            gather_from(model, dtype=dtype),
            shards,
            temporary,
            dtype=dtype,
            policy_version=policy_version,
            process=process,
            num_processes=num_processes,
        )
        _part(temporary, process).write_text(part.to_json())

    def finish() -> None:
        names = describe(architecture, temporary, dtype=dtype, tokenizer_dir=tokenizer_dir)
        _complete(temporary, num_processes=num_processes, names=names)
        _put_in_place(temporary, out_dir)

    try:
        _agreed(lambda: _prepare(out_dir, temporary) if leads else None, out_dir)
        _agreed(write, out_dir)
        _agreed(lambda: finish() if leads else None, out_dir)
    finally:
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)
    return read_manifest(out_dir)


def _sibling(folder: Path, kind: Literal["part", "old"]) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _part(folder: Path, process: int) -> Path:
    return folder / f"{FILE_NAME}.{process}"


def _agreed(stage: Callable[[], _T], out_dir: Path) -> _T:
    """What `stage` returns, in this process, once it has ended well in all of them. Raises UserError otherwise."""
    result, failure = None, None
    try:
        with _told(out_dir):
            result = stage()
    except Exception as error:  # whatever it is, the others must not wait for this process
        failure = error
    if sharding.largest_of_processes(int(failure is not None)):
        raise failure or UserError(f"another process could not write {out_dir}; its own message says why")
    return result  # pyright: ignore[reportReturnType]


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
    found = {int(match[1]): path for path in Path(root).iterdir() if (match := _VERSION.fullmatch(path.name))}
    whole = sorted(version for version, path in found.items() if version <= newest and (path / FILE_NAME).exists())
    for version in sorted(found):
        if version > newest or (len(whole) > KEPT_VERSIONS and version < whole[-KEPT_VERSIONS]):
            aside = _sibling(found[version], "old")
            os.rename(found[version], aside)  # at once: no server finds half a version
            shutil.rmtree(aside)
