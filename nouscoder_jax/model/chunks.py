"""How a parameter lies in a converted folder: a zarr array whose chunks are the bytes of Hugging Face tensors.

In: a parameter's shape and dtype. Out: `Layout`, its zarr metadata, and the `Chunk` files that hold a tensor of theirs.

A chunk is one layer of ours, or some rows of a vocabulary matrix. Zarr's codec `transpose` says that its numbers lie in
the order of their file, so that conversion copies bytes and transposes nothing. There are no other codecs: bf16 weights
hardly compress, and with crc32c only tensorstore could write chunks, which it does at a third of cp's rate. A CRC-32 of
each chunk stands in hf_files.json instead (model/converted.py).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from nouscoder_jax.manifest import DTYPES
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import NAME_TABLE, Piece, abstract_model
from nouscoder_jax.model.qwen3 import param_name

CHUNK_BYTES = 64 << 20
"""Rows of a vocabulary matrix to a chunk, in bytes; a layer is a chunk whatever its size."""


class Layout(NamedTuple):
    """A parameter as a zarr array."""

    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    order: tuple[int, ...]
    """Our dimensions in the order in which they lie in a chunk, as zarr's transpose codec states it."""

    def metadata(self) -> dict[str, Any]:
        """The content of zarr.json that says so."""
        moved = self.order != tuple(range(len(self.order)))
        transpose = [{"name": "transpose", "configuration": {"order": list(self.order)}}] if moved else []
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk_shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [*transpose, {"name": "bytes", "configuration": {"endian": "little"}}],
        }


class Chunk(NamedTuple):
    """A file that holds a tensor of theirs, or some of its rows."""

    path: str
    """Within the folder of arrays."""
    first: int
    """Byte of the tensor that it begins with."""
    num_bytes: int
    """Of the tensor; zeros follow in the last chunk of rows."""
    file_bytes: int


def make_layouts(architecture: Architecture, dtypes: dict[str, str]) -> dict[str, Layout]:
    """The layout of every parameter, by our names, whose dtypes are given."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(abstract_model(architecture)):
        name = param_name(path)
        entry = NAME_TABLE[name]
        if "{layer}" in entry.hf_name:
            inner = range(1, leaf.ndim)
            chunk = (1, *leaf.shape[1:])
            order = (0, *inner[entry.input_dims :], *inner[: entry.input_dims])
        else:
            num_rows = _rows(leaf.shape, DTYPES[dtypes[name]].itemsize)
            chunk, order = (num_rows, *leaf.shape[1:]), tuple(range(leaf.ndim))
        found[name] = Layout(leaf.shape, dtypes[name], chunk, order)
    return found


def _rows(shape: tuple[int, ...], itemsize: int) -> int:
    """Rows to a chunk: without a remainder where some number of chunks close to CHUNK_BYTES allows it."""
    least = max(1, math.ceil(math.prod(shape) * itemsize / CHUNK_BYTES))
    counts = [count for count in range(least, 4 * least + 1) if shape[0] % count == 0]
    return math.ceil(shape[0] / (counts[0] if counts else least))


def chunks_of(piece: Piece, layout: Layout) -> list[Chunk]:
    """The chunks that together are one of their tensors, in its order."""
    itemsize = DTYPES[layout.dtype].itemsize
    file_bytes = math.prod(layout.chunk_shape) * itemsize
    rest = ".".join("0" for _ in layout.shape[1:])
    folder = array_folder(piece.name)
    if piece.layer is not None:
        return [Chunk(f"{folder}/c.{piece.layer}.{rest}", 0, file_bytes, file_bytes)]
    total = math.prod(layout.shape) * itemsize
    return [
        Chunk(
            f"{folder}/c.{number}" + (f".{rest}" if rest else ""),
            number * file_bytes,
            min(file_bytes, total - number * file_bytes),
            file_bytes,
        )
        for number in range(math.ceil(total / file_bytes))
    ]


def array_folder(name: str) -> str:
    """The folder of a parameter, named as Orbax names it: `layers.mlp.up_proj`."""
    return name.replace("/", ".")
