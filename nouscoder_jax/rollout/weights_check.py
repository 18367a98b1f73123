"""What an export holds, and what a server must say it holds after loading it.

In: a folder of safetensors, with a manifest or without; a server's checksums. Out: `Export`, checksums worked out from
the files, EngineError where anything differs.

SGLang fuses tensors as it loads them (q, k, v; gate, up) and pads a vocabulary to a multiple of 64 rows. Its checksum
of a tensor is the start of a SHA-256 on a CPU; on a GPU a sum of hashed words, which `gpu_checksum` repeats in NumPy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt32

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import FILE_NAME, Place, check_files, read_header, read_index, read_manifest
from nouscoder_jax.types import EngineError

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""SGLang's module for several of Hugging Face's, whose rows it puts one under another."""
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
VOCABULARY_MULTIPLE = 64

_TILE = 8192
_CHUNK = _TILE * 32
_MASK = 2**64 - 1
_SEEDS = (0x243F6A88, (0x243F6A88 * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Weights in a folder, whole as far as names, shapes and sizes of files say.

    Example:
        Export(folder=Path("weights/policy-000003"), digest="9f86d081884c7d65", places={"model.norm.weight": (...)},
               hashes={"model.norm.weight": "5feceb66..."})
    """

    folder: Path
    digest: str
    """Names the exact weights: from the manifest, else from names, shapes, sizes and times of the files."""
    places: dict[str, tuple[Path, Place]]
    """Tensor -> its file and where it lies in it."""
    hashes: dict[str, str]
    """Tensor -> SHA-256 of its bytes, from the manifest; empty without one."""

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> shape."""
        return {name: place.shape for name, (_, place) in self.places.items()}


def read_export(folder: Path) -> Export:
    """What `folder` holds, without reading the weights themselves.

    Raises EngineError for a folder without weights, a torn file, a file that the index or the manifest names and that
    is not there, or one that is not what the manifest says.
    """
    manifest = None
    if (folder / FILE_NAME).is_file():
        try:
            manifest = read_manifest(folder)
            check_files(manifest, folder, contents=False)
        except UserError as error:
            raise EngineError(str(error)) from error
    files = _weight_files(folder)
    places = {place.name: (file, place) for file in files for place in _places(file)}
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("tie_word_embeddings"):
        places.pop("lm_head.weight", None)  # some files repeat the embedding under this name, which nobody reads
    digest = manifest.digest if manifest else _digest(files, [place for _, place in places.values()])
    hashes = {name: entry.hash for name, entry in manifest.tensors.items()} if manifest else {}
    return Export(folder=folder, digest=digest[:16], places=places, hashes=hashes)


def _weight_files(folder: Path) -> list[Path]:
    try:
        names = set(read_index(folder).values())
    except UserError as error:
        raise EngineError(str(error)) from error
    files = sorted((folder / name for name in names) if names else folder.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{folder} holds no safetensors file")
    if missing := [file for file in files if not file.is_file()]:
        raise EngineError(f"{missing[0]} is named by the index and does not exist")
    return files


def _places(file: Path) -> list[Place]:
    try:
        places = read_header(file)
    except ValueError as error:
        raise EngineError(f"{file} is not a whole safetensors file: {error}") from error
    end = max((place.end for place in places), default=0)
    if places and file.stat().st_size != end:
        raise EngineError(f"{file} has {file.stat().st_size} bytes; its header promises {end}")
    return places


def _digest(files: Sequence[Path], places: Sequence[Place]) -> str:
    facts: list[object] = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    facts += [[place.name, place.dtype, place.shape, place.first] for place in places]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def check_layout(got: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raises EngineError that names the first tensor that `folder` lacks, has too much, or in another shape: SGLang
    keeps old tensors for missing ones without saying so, and dies of a wrong shape."""
    if missing := sorted(expected.keys() - got.keys()):
        raise EngineError(f"{folder} lacks {len(missing)} tensors, the first is {missing[0]}")
    if extra := sorted(got.keys() - expected.keys()):
        raise EngineError(f"{folder} holds {len(extra)} tensors that the served model lacks, the first is {extra[0]}")
    for name, shape in expected.items():
        if got[name] != shape:
            raise EngineError(f"{folder} has {name} of shape {got[name]}; the served model has {shape}")


def sources(served: str) -> tuple[str, ...]:
    """The tensors of an export that SGLang makes its tensor `served` of, in order of their rows."""
    for fused, parts in FUSED.items():
        if f".{fused}." in served:
            return tuple(served.replace(f".{fused}.", f".{part}.") for part in parts)
    return (served,)


def pick(export: Export, served: Iterable[str], *, budget_bytes: int, turn: int) -> list[str]:
    """Those of a server's tensors that are compared with the files at this turn: as many as `budget_bytes` hold, the
    next ones at the next turn. Tensors that the export does not have are left out."""
    shares: list[list[str]] = [[]]
    held = 0
    for name in sorted(served):
        if not all(source in export.places for source in sources(name)):
            continue
        size = sum(place.end - place.first for _, place in (export.places[source] for source in sources(name)))
        if shares[-1] and held + size > budget_bytes:
            shares.append([])
            held = 0
        shares[-1].append(name)
        held += size
    return shares[turn % len(shares)]


def checksums(export: Export, served: Iterable[str], *, dtype: str, device: str) -> dict[str, str]:
    """What a server of tensor parallelism 1 must say of its tensors `served`, kept as `dtype` on `device` (cpu, cuda).

    Hashes of the manifest are taken where they are the same thing, else the files are read: about 1 GB/s for a CPU
    server's SHA-256, 0.1 GB/s on each core for a GPU server's checksum.
    """
    found: dict[str, str] = {}
    for name in served:
        parts = [export.places[source] for source in sources(name)]
        pad = -parts[0][1].shape[0] % VOCABULARY_MULTIPLE if name in VOCABULARY else 0
        known = export.hashes.get(name)
        if device == "cpu" and known and not pad and parts[0][1].dtype == dtype:
            found[name] = known[:16]
            continue
        data = np.concatenate([_as_dtype(_read(file, place), place.dtype, dtype) for file, place in parts])
        if pad:
            data = np.append(data, np.zeros(len(data) // parts[0][1].shape[0] * pad, np.uint8))
        found[name] = hashlib.sha256(data.data).hexdigest()[:16] if device == "cpu" else gpu_checksum(data)
    return found


def _read(file: Path, place: Place) -> UInt8[np.ndarray, " bytes"]:
    return np.fromfile(file, np.uint8, count=place.end - place.first, offset=place.first)


def _as_dtype(data: UInt8[np.ndarray, " bytes"], stored: str, served: str) -> UInt8[np.ndarray, " bytes_served"]:
    """The bytes of a tensor in the dtype in which a server keeps it: rounded to the nearest, ties to even."""
    if stored == served:
        return data
    if (stored, served) == ("float32", "bfloat16"):
        bits = data.view(np.uint32)
        return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16).view(np.uint8)
    if (stored, served) == ("bfloat16", "float32"):
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
    raise EngineError(f"weights of dtype {stored} cannot be compared with a server's {served}; export bfloat16")


def gpu_checksum(data: UInt8[np.ndarray, " bytes"]) -> str:
    """SGLang's checksum of a tensor on a GPU (sglang/kernels/ops/memory/gpu_tensor_hash.py, 0.5.23), as 16 hex digits.

    Every 32-bit word is hashed twice with its place; each tile of 8192 words is summed and hashed again, in both halves
    of 64 bits; tiles are summed modulo 2^64 and hashed.
    """
    words = np.concatenate([data, np.zeros(-len(data) % 4, np.uint8)]).view(np.uint32)
    if not len(words):
        return f"{0:016x}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        total = sum(pool.map(lambda first: _sum_of_tiles(words, first), range(0, len(words), _CHUNK))) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        total = (total ^ total >> shift) * factor & _MASK
    return f"{total ^ total >> 31:016x}"


def _sum_of_tiles(words: UInt32[np.ndarray, " words"], first: int) -> int:
    """The sum over the tiles of one chunk of words."""
    chunk = words[first : first + _CHUNK]
    place = np.arange(first, first + len(chunk), dtype=np.uint64).astype(np.uint32)
    tiles = np.arange(0, len(chunk), _TILE)
    num_bytes = np.uint32(4 * len(words) & 0xFFFFFFFF)
    halves = []
    for seed, factor, turn in zip(_SEEDS, (0x27D4EB2D, 0x165667B1), (15, 13), strict=True):
        placed = (place * np.uint32(factor) + np.uint32(seed)) ^ (place << turn | place >> (32 - turn))
        sums = np.add.reduceat(_mixed(chunk ^ placed), tiles, dtype=np.uint32)
        halves.append(_mixed(sums ^ num_bytes).astype(np.uint64))
    return int(np.sum(halves[0] << np.uint64(32) | halves[1], dtype=np.uint64))


def _mixed(words: UInt32[np.ndarray, " words"]) -> UInt32[np.ndarray, " words"]:
    """MurmurHash3's finaliser of 32 bits."""
    words = (words ^ words >> 16) * np.uint32(0x85EBCA6B)
    words = (words ^ words >> 13) * np.uint32(0xC2B2AE35)
    return words ^ words >> 16
