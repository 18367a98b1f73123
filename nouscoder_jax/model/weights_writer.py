"""Weights from devices into safetensors files: planned ahead, gathered a layer at a time, written in parallel.

In: a model whose parameters may lie over the devices of several processes, an empty folder. Out: this process's files
in it, and the manifest's entries of what they hold. Nothing is ever whole in one place: a layer is cast to the export's
dtype where it lies, gathered, copied to the host a tensor at a time and dropped once it is written.

    all processes   cast, transpose, gather layer 0, 1, 2 ... together; each takes those that its files hold
    WRITERS threads of each, a file each at a time: copy from the device, hash, write, fdatasync

Every file is on the disk (fdatasync after each layer, while other threads compute) before the manifest is written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jaxtyping import Shaped

from nouscoder_jax.manifest import FileEntry, Manifest, TensorEntry, file_hash
from nouscoder_jax.model.name_table import NAME_TABLE, to_hf
from nouscoder_jax.model.qwen3 import Qwen3, param_name
from nouscoder_jax.model.weights_plan import WRITERS, Shard, Unit
from nouscoder_jax.sharding import replicated

_PIECE_BYTES = 256 << 20
"""Of a vocabulary matrix, which is larger than a layer, gathered at a time."""
_CHUNK_BYTES = 1 << 20
"""Hashed and then written while it is in the core's cache."""


class Piece(NamedTuple):
    """A tensor, or some of its rows in their order, on the device."""

    name: str
    array: Shaped[jax.Array | np.ndarray, ...]
    skip: int = 0
    """Rows at the beginning that an earlier piece had."""


Gather: TypeAlias = Callable[[Unit], Iterator[list[Piece]]]
"""Hands over the tensors of a unit, in the order of their file."""


def write_shards(
    gather: Gather,
    shards: tuple[Shard, ...],
    folder: Path,
    *,
    dtype: Literal["float32", "bfloat16"],
    policy_version: int,
    process: int,
    num_processes: int,
) -> Manifest:
    """Writes this process's files of the plan into `folder` and returns its part of the manifest.

    All processes of the runtime must call it at the same time, with the same plan; one whose disk fails still takes
    part in the gathering, so that the others are not left waiting.

    Raises:
        OSError: this process could not write.
    """
    writers = [ThreadPoolExecutor(1, thread_name_prefix="export") for _ in range(WRITERS)]
    room = threading.Semaphore(WRITERS + 1)  # units on the way from device to disk
    files = {shard.file: _File(folder, shard, dtype) for shard in shards if shard.writer % num_processes == process}
    jobs: list[Future[None]] = []
    try:
        for shard, unit in _in_turn(shards):
            if jax.process_count() == 1 and any(file.broken for file in files.values()):
                break
            for pieces in gather(unit):
                if shard.file in files:
                    room.acquire()
                    writer = writers[shard.writer // num_processes]
                    jobs.append(writer.submit(files[shard.file].write, pieces, room))
                else:
                    jax.block_until_ready(pieces)  # no further ahead of the others than a unit
        for job in jobs:
            job.result()
        part = Manifest(policy_version=policy_version, dtype=dtype, files={}, tensors={})
        for file in files.values():
            file.tell(part)
        return part
    finally:
        for writer in writers:
            writer.shutdown()
        for file in files.values():
            file.close()


def _in_turn(shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, Unit]]:
    """Every unit, in an order that gives all writers something to do: a unit of each one's file in turn."""
    num_writers = 1 + max(shard.writer for shard in shards)
    for first in range(0, len(shards), num_writers):
        group = shards[first : first + num_writers]
        for at in range(max(len(shard.units) for shard in group)):
            yield from ((shard, shard.units[at]) for shard in group if at < len(shard.units))


class _File:
    """A file under way. Only its writer's thread calls `write`."""

    def __init__(self, folder: Path, shard: Shard, dtype: str) -> None:
        self.path, self.shard, self.dtype = folder / shard.file, shard, dtype
        self.handle = -1
        self.hashes: dict[str, Any] = {}
        self.broken = False

    def write(self, pieces: list[Piece], room: threading.Semaphore) -> None:
        """Adds pieces; after a failure it only makes room. Raises OSError."""
        try:
            if self.broken:
                return
            if self.handle < 0:
                self.handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                _write_all(self.handle, memoryview(self.shard.header))
            while pieces:
                self._add(pieces.pop(0))
            os.fdatasync(self.handle)
        except BaseException:
            self.broken = True
            raise
        finally:
            room.release()

    def _add(self, piece: Piece) -> None:
        array = piece.array
        if isinstance(array, jax.Array):
            array = np.asarray(array.addressable_data(0))
        data = np.ascontiguousarray(array[piece.skip :]).reshape(-1).view(np.uint8).data
        state = self.hashes.setdefault(piece.name, hashlib.sha256())
        for at in range(0, len(data), _CHUNK_BYTES):
            chunk = data[at : at + _CHUNK_BYTES]
            state.update(chunk)
            _write_all(self.handle, chunk)

    def tell(self, part: Manifest) -> None:
        """Adds what the manifest says of a finished file."""
        content = json.loads(self.shard.header[8:])
        hashes = {name: state.hexdigest() for name, state in self.hashes.items()}
        names = [name for unit in self.shard.units for name in unit.names]
        for name in names:
            part.tensors[name] = TensorEntry(
                shape=tuple(content[name]["shape"]), dtype=self.dtype, file=self.shard.file, hash=hashes[name]
            )
        whole = file_hash(self.shard.header, [hashes[name] for name in names])
        part.files[self.shard.file] = FileEntry(bytes=self.shard.num_bytes, hash=whole)

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


def _write_all(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def gather_from(model: Qwen3, *, dtype: Literal["float32", "bfloat16"]) -> Gather:
    """Returns what hands over a unit of this model, in `dtype`, whole in every process. Arrays of jax are cast and
    gathered on their devices: all at once for a layer, some rows at a time for the rest."""
    leaves = {param_name(path): leaf for path, leaf in jax.tree.leaves_with_path(model)}
    leaf = next(iter(leaves.values()))
    on_device = isinstance(leaf, jax.Array)
    mesh = leaf.sharding.mesh if on_device and isinstance(leaf.sharding, NamedSharding) else None
    where = replicated(mesh) if isinstance(mesh, Mesh) else None

    def gather(unit: Unit) -> Iterator[list[Piece]]:
        held = {ours: leaves[ours] for ours in unit.names.values()}
        if unit.layer is not None:
            layer = _of_layer_jit(dtype, where)(held, unit.layer) if on_device else _of_layer(held, unit.layer, dtype)
            yield [Piece(theirs, layer[ours]) for theirs, ours in unit.names.items()]
            return
        ((theirs, ours),) = unit.names.items()
        total_rows = len(held[ours])
        num_rows = math.ceil(total_rows / math.ceil(unit.num_bytes / _PIECE_BYTES))
        take = _rows_jit(num_rows, dtype, where) if on_device else partial(_rows, num_rows=num_rows, dtype=dtype)
        for first in range(0, total_rows, num_rows):
            # The last rows begin earlier, so that all pieces have one shape and are compiled once.
            start = min(first, total_rows - num_rows)
            yield [Piece(theirs, take(held[ours], start), first - start)]

    return gather


def _of_layer(stacked: dict[str, Any], layer: Any, dtype: str) -> dict[str, Any]:
    """One layer in their layout, by our names."""
    return {name: to_hf(leaf[layer].astype(jnp.dtype(dtype)), NAME_TABLE[name]) for name, leaf in stacked.items()}


def _rows(leaf: Any, start: Any, *, num_rows: int, dtype: str) -> Any:
    if isinstance(leaf, jax.Array):  # cast first: rows may lie on several devices
        return jax.lax.dynamic_slice_in_dim(leaf.astype(dtype), start, num_rows)
    return leaf[start : start + num_rows].astype(jnp.dtype(dtype))


@lru_cache
def _of_layer_jit(dtype: str, where: Sharding | None) -> Callable[..., Any]:
    return jax.jit(partial(_of_layer, dtype=dtype), out_shardings=where)


@lru_cache
def _rows_jit(num_rows: int, dtype: str, where: Sharding | None) -> Callable[..., Any]:
    return jax.jit(partial(_rows, num_rows=num_rows, dtype=dtype), out_shardings=where)
