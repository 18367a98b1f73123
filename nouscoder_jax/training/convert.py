"""Conversion: a Hugging Face directory to arrays that any JAX program restores, and back to the same bytes.

In: a Hugging Face directory, a folder that from-hf has made (model/converted.py), or a run folder. Out: a folder of one
of the first two kinds, complete or not there at all.

    from_hf    headers checked -> small files copied -> params/ laid out by Orbax -> chunks: read, no NaN?, CRC, written
    to_hf      headers, as they were or planned anew -> chunks or arrays of a checkpoint: read, CRC?, cast?, written

Bytes go from file to file a block at a time (model/blocks.py); no tensor is transposed unless it comes from a run.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import DTYPES, INDEX, Place, parse_header
from nouscoder_jax.manifest import FILE_NAME as MANIFEST
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.blocks import BLOCK_BYTES, WORKERS, Job, first_nan, read_blocks, run_jobs, write_at
from nouscoder_jax.model.chunks import Chunk, chunks_of, make_layouts
from nouscoder_jax.model.converted import DESCRIPTION, PARAMS, Converted, describe_files, is_converted, read_converted
from nouscoder_jax.model.hf_files import EMBEDDING, TIED_HEAD, read_files, write_index
from nouscoder_jax.model.name_table import abstract_model, hf_pieces
from nouscoder_jax.model.orbax_tree import create_tree
from nouscoder_jax.model.weights import describe, read_config
from nouscoder_jax.model.weights_plan import file_name, file_order, make_header
from nouscoder_jax.training.hf_writer import HfWriter, nan_error
from nouscoder_jax.training.new_folder import carried, copy_files, new_folder, size_of
from nouscoder_jax.training.run_weights import RunWeights, open_run

RUN_SHARD_GB = 5.0
"""A file of a run's weights holds no more, as transformers does it, unless a single tensor is larger."""


class Done(NamedTuple):
    """What was converted, for people."""

    what: str
    num_tensors: int
    num_bytes: int
    seconds: float


def from_hf(hf_dir: Path, out_dir: Path, *, say: Callable[[str], None]) -> Done:
    """Writes `out_dir` with the weights as stacked arrays in their dtype, and every other file as it is. `say` hears
    how far it is.

    Raises:
        UserError: a tensor or file that is not as it should be, by name; no room; an `out_dir` that holds something.
    """
    start = time.monotonic()
    if is_converted(hf_dir):
        raise UserError(f"{hf_dir} is converted already ({DESCRIPTION}); give from-hf a Hugging Face directory")
    architecture = Architecture.from_hf(read_config(hf_dir))
    files = read_files(hf_dir, architecture)
    small = carried(hf_dir, files.headers)
    taken = [path for path in small if path.parts[0] in (PARAMS, DESCRIPTION)]
    if taken:
        raise UserError(f"{hf_dir / taken[0]} has a name that the converted folder needs; move it away")
    layouts = make_layouts(architecture, files.dtypes)
    with new_folder(out_dir, num_bytes=files.num_bytes + size_of(hf_dir, small)) as part:
        copy_files(hf_dir, small, part)
        create_tree(part / PARAMS, layouts)
        crc32: dict[str, int] = {}
        jobs = []
        for name, (file, place) in _in_file_order(files.places):
            piece = files.pieces[EMBEDDING if (tied := name not in files.pieces) else name]
            source = _Source(hf_dir / file, place)
            for chunk in chunks_of(piece, layouts[piece.name]):
                if tied:
                    other, embedding = files.places[EMBEDDING]
                    work = partial(_compare, source, _Source(hf_dir / other, embedding), chunk)
                else:
                    work = partial(_store, source, chunk, part / PARAMS, crc32)
                jobs.append(Job(chunk.num_bytes, work))
        run_jobs(jobs, num_workers=WORKERS, say=say)
        (part / DESCRIPTION).write_text(describe_files(files, crc32))
    return Done(str(hf_dir), len(files.places), files.num_bytes, time.monotonic() - start)


def to_hf(
    source: Path,
    out_dir: Path,
    *,
    dtype: Literal["keep", "float32", "bfloat16"],
    step: int | str,
    max_shard_gb: float | None,
    say: Callable[[str], None],
) -> Done:
    """Writes `out_dir` as a Hugging Face directory, from a converted folder or from the checkpoint `step` of a run.

    A converted folder's files come back as they were, unless its weights are cast or `max_shard_gb` asks for other
    files (None: as they were; for a run, RUN_SHARD_GB).

    Raises:
        UserError: neither of the two, a damaged chunk or checkpoint by name, an option that does not fit, no room, an
            `out_dir` that holds something.
    """
    start = time.monotonic()
    if max_shard_gb is not None and not max_shard_gb > 0:
        raise UserError(f"--max-shard-gb is {max_shard_gb}; a number above 0 was expected")
    if is_converted(source):
        if step != "latest":
            raise UserError(f"{source} is a converted folder and has no steps; leave out --step {step}")
        converted = read_converted(source, Architecture.from_hf(read_config(source)))
        num_tensors, num_bytes = _from_converted(converted, out_dir, dtype=dtype, max_shard_gb=max_shard_gb, say=say)
        what = str(source)
    elif (source / INDEX).exists() or any(source.glob("*.safetensors")):
        raise UserError(f"{source} is a Hugging Face directory already; to-hf takes a converted folder or a run folder")
    else:
        run = open_run(source, step=step)
        num_tensors, num_bytes = _from_run(run, out_dir, dtype=dtype, max_shard_gb=max_shard_gb, say=say)
        what = f"step {run.step} of {source}"
    return Done(what, num_tensors, num_bytes, time.monotonic() - start)


def _from_converted(
    converted: Converted, out_dir: Path, *, dtype: str, max_shard_gb: float | None, say: Callable[[str], None]
) -> tuple[int, int]:
    """Number of tensors and bytes written."""
    files, source = converted.files, converted.folder
    architecture = Architecture.from_hf(read_config(source))
    dtypes = {name: piece_dtype if dtype == "keep" else dtype for name, piece_dtype in files.dtypes.items()}
    as_it_was = dtypes == files.dtypes and max_shard_gb is None
    headers = files.headers if as_it_was else plan_headers(architecture, dtypes, max_shard_gb or RUN_SHARD_GB)
    small = carried(source, {PARAMS, DESCRIPTION} | (set() if as_it_was else {INDEX, MANIFEST}))
    num_bytes = _bytes_of(headers)
    with new_folder(out_dir, num_bytes=num_bytes + size_of(source, small)) as part:
        copy_files(source, small, part)
        if not as_it_was:
            write_headers_index(part, headers)
            _state_dtype(part / "config.json", dtype)
        with HfWriter(part, headers) as writer:
            jobs = [
                Job(chunk.num_bytes, partial(_pour, converted, name, chunk, writer))
                for name, _ in _in_file_order(writer.places)
                if name in files.pieces
                for chunk in converted.chunks(name)
            ]
            run_jobs(jobs, num_workers=WORKERS, say=say)
            num_tensors = len(writer.places)
    return num_tensors, num_bytes


def _from_run(
    run: RunWeights, out_dir: Path, *, dtype: str, max_shard_gb: float | None, say: Callable[[str], None]
) -> tuple[int, int]:
    """Number of tensors and bytes written."""
    dtypes = {name: stored if dtype == "keep" else dtype for name, stored in run.dtypes.items()}
    stated = dtypes["embed_tokens"]
    headers = plan_headers(run.architecture, dtypes, max_shard_gb or RUN_SHARD_GB)
    num_bytes = _bytes_of(headers)
    with new_folder(out_dir, num_bytes=num_bytes) as part:
        describe(run.architecture, part, dtype=stated, tokenizer_dir=run.described)
        write_headers_index(part, headers)
        with HfWriter(part, headers) as writer:
            # One at a time: a chunk of a checkpoint may hold all layers of a parameter.
            run_jobs(list(run.jobs(writer)), num_workers=1, say=say)
            num_tensors = len(writer.places)
    return num_tensors, num_bytes


class _Source(NamedTuple):
    """A tensor in a file."""

    path: Path
    place: Place

    def blocks(self, chunk: Chunk) -> Iterator[np.ndarray]:
        what = f"tensor {self.place.name}"
        return read_blocks(self.path, self.place.first + chunk.first, chunk.num_bytes, what=what)


def _store(source: _Source, chunk: Chunk, folder: Path, crc32: dict[str, int]) -> None:
    """Copies a part of a tensor into its chunk, and notes its CRC. Raises UserError where there is a NaN in it."""
    name, dtype = source.place.name, source.place.dtype
    scratch = np.empty(BLOCK_BYTES, np.uint8)
    handle = os.open(folder / chunk.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        at, crc = 0, 0
        for block in source.blocks(chunk):
            if (found := first_nan(block, dtype, scratch)) is not None:
                number = (chunk.first + at) // DTYPES[dtype].itemsize + found
                raise nan_error(source.path, name, number, source.place.shape)
            crc = zlib.crc32(block.data, crc)
            write_at(handle, block, at)
            at += block.size
        os.ftruncate(handle, chunk.file_bytes)
        os.fdatasync(handle)
    finally:
        os.close(handle)
    crc32[chunk.path] = crc


def _compare(head: _Source, embedding: _Source, chunk: Chunk) -> None:
    """Raises UserError where a part of a tied head is not that of the embedding."""
    for mine, theirs in zip(head.blocks(chunk), embedding.blocks(chunk), strict=True):
        if not np.array_equal(mine, theirs):
            raise UserError(
                f"{head.path}: tensor {TIED_HEAD} differs from {EMBEDDING} in {embedding.path.name}, though its "
                "config.json ties them; set tie_word_embeddings to false there"
            )


def _pour(converted: Converted, name: str, chunk: Chunk, writer: HfWriter) -> None:
    """Writes a chunk to where its tensor belongs, and the embedding's to a tied head also."""
    dtype = converted.layouts[converted.files.pieces[name].name].dtype
    twins = [TIED_HEAD] if name == EMBEDDING and TIED_HEAD not in converted.files.pieces else []
    names = [name, *(twin for twin in twins if twin in writer.places)]
    for at, block in converted.blocks(name, chunk):
        for one in names:
            writer.write_block(one, at, block, dtype=dtype)
    for one in names:
        writer.sync(one)


def _in_file_order(places: dict[str, tuple[str, Place]]) -> list[tuple[str, tuple[str, Place]]]:
    return sorted(places.items(), key=lambda item: (item[1][0], item[1][1].first))


def plan_headers(architecture: Architecture, dtypes: dict[str, str], max_shard_gb: float) -> dict[str, bytes]:
    """Headers of files of at most this size, by file, in the order of our files; `dtypes` by our names."""
    pieces = hf_pieces(abstract_model(architecture))
    limit = max_shard_gb * 1e9
    files: list[dict[str, tuple[tuple[int, ...], str]]] = [{}]
    held = 0
    for name in file_order(architecture):
        shape, dtype = pieces[name].shape, dtypes[pieces[name].name]
        size = math.prod(shape) * DTYPES[dtype].itemsize
        if files[-1] and held + size > limit:
            files.append({})
            held = 0
        files[-1][name] = (shape, dtype)
        held += size
    return {file_name(number, len(files)): make_header(tensors) for number, tensors in enumerate(files)}


def _bytes_of(headers: dict[str, bytes]) -> int:
    return sum(parse_header(header)[-1].end for header in headers.values())


def write_headers_index(folder: Path, headers: dict[str, bytes]) -> None:
    """Writes the index that several files need. Raises OSError."""
    if len(headers) > 1:
        files = {place.name: file for file, header in headers.items() for place in parse_header(header)}
        write_index(folder, files, total_bytes=_bytes_of(headers) - sum(map(len, headers.values())))


def _state_dtype(config_file: Path, dtype: str) -> None:
    """Has a config.json say of which dtype the weights are now, under the names that it has for that."""
    if dtype == "keep":
        return
    config = json.loads(config_file.read_text())
    names = [name for name in ("dtype", "torch_dtype") if name in config] or ["torch_dtype"]
    config_file.write_text(json.dumps(config | dict.fromkeys(names, dtype), indent=2, ensure_ascii=False) + "\n")
