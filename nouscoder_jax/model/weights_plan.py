"""Which file holds which tensors of an export, and who writes it.

In: an architecture, a dtype, the number of processes. Out: `Shard`s, the same in every process, each with its header:
so that all files can be written at once, from their first byte to their last.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from nouscoder_jax.manifest import DTYPES
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import abstract_model, hf_pieces
from nouscoder_jax.model.qwen3 import Qwen3

WRITERS = 4
"""Threads that write, in each process."""
FILE_BYTES = 1 << 30
"""A file holds no more, unless a single layer or the embedding is larger."""
SMALL_FILE_BYTES = 64 << 20
"""Below this a file is not split for the sake of more writers."""


class Unit(NamedTuple):
    """What is gathered at a time: a layer, or a parameter that belongs to none."""

    layer: int | None
    names: dict[str, str]
    """Our names by theirs, in file order."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file, as it will be.

    Example:
        Shard(file="model-00001-of-00002.safetensors", writer=0, units=(...), header=b"...", num_bytes=12345)
    """

    file: str
    writer: int
    """Over all processes: process writer % num_processes writes it."""
    units: tuple[Unit, ...]
    header: bytes
    num_bytes: int
    """Of the whole file."""


def plan_files(
    architecture: Architecture, *, dtype: Literal["float32", "bfloat16"], num_processes: int
) -> tuple[Shard, ...]:
    """The files of an export by `num_processes` together, the same in each of them: at least one for each process, and
    for each writer where they are not too small for that."""
    abstract = abstract_model(architecture)
    units = _units(abstract, itemsize=DTYPES[dtype].itemsize)
    total = sum(unit.num_bytes for unit in units)
    limit = min(FILE_BYTES, max(total // (num_processes * WRITERS), SMALL_FILE_BYTES), -(-total // num_processes))
    files: list[list[Unit]] = [[]]
    for unit in units:
        if files[-1] and sum(held.num_bytes for held in files[-1]) + unit.num_bytes > limit:
            files.append([])
        files[-1].append(unit)
    shapes = {name: piece.shape for name, piece in hf_pieces(abstract).items()}
    shards = []
    for number, held in enumerate(files):
        header = make_header({name: (shapes[name], dtype) for unit in held for name in unit.names})
        shards.append(
            Shard(
                file=file_name(number, len(files)),
                writer=number % (num_processes * WRITERS),
                units=tuple(held),
                header=header,
                num_bytes=len(header) + sum(unit.num_bytes for unit in held),
            )
        )
    return tuple(shards)


def _units(abstract: Qwen3, *, itemsize: int) -> list[Unit]:
    pieces = hf_pieces(abstract)
    grouped: dict[int | str, dict[str, str]] = {}
    for name, piece in pieces.items():
        grouped.setdefault(name if piece.layer is None else piece.layer, {})[name] = piece.name
    return [
        Unit(
            layer=key if isinstance(key, int) else None,
            names=names,
            num_bytes=sum(math.prod(pieces[name].shape) for name in names) * itemsize,
        )
        for key, names in grouped.items()
    ]


def file_order(architecture: Architecture) -> list[str]:
    """Their names in the order of our files: embedding, layer after layer, the rest."""
    return [name for unit in _units(abstract_model(architecture), itemsize=1) for name in unit.names]


def file_name(number: int, count: int) -> str:
    """What transformers calls file `number` (from 0) of `count`."""
    return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def make_header(tensors: dict[str, tuple[tuple[int, ...], str]]) -> bytes:
    """The first bytes of a safetensors file with these tensors, shape and dtype of each, in this order."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (shape, dtype) in tensors.items():
        end = at + math.prod(shape) * DTYPES[dtype].itemsize
        content[name] = {"dtype": DTYPES[dtype].code, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text
