"""The manifest of exported weights: the last file of an export, which names every tensor and every byte of it.

In: a folder of safetensors. Out: `Manifest`, whose `digest` names the exact weights; UserError for what is missing,
torn or changed. A folder without a manifest is no finished export. Standard library only.

    {"format": 1, "policy_version": 7, "dtype": "bfloat16",
     "files": {"model.safetensors": {"bytes": 12345, "hash": "9f86..."}},
     "tensors": {"model.norm.weight": {"shape": [128], "dtype": "bfloat16", "file": "model.safetensors", "hash": ...}}}

A tensor's hash is the SHA-256 of its bytes as they lie in the file: what hashes fastest in Python's library without
being weak, and what SGLang's checksum of a tensor on a CPU begins with (its first 16 hex digits; q, k and v are one
tensor there, gate and up another). Measured on one core, GB/s: sha256 1.4, sha1 1.6, blake2b 0.8, sha512 0.6,
sha3_256 0.4, crc32 3.9. The hash of a safetensors file is that of its header followed by the hashes of its tensors in
file order, so that no byte is hashed twice; that of any other file is the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nouscoder_jax.config import UserError

INDEX = "model.safetensors.index.json"
"""Which file of several has which tensor."""
FILE_NAME = "manifest.json"
FORMAT = 1


class Dtype(NamedTuple):
    """What safetensors calls a dtype, and the bytes of one number."""

    code: str
    itemsize: int


DTYPES = {"bfloat16": Dtype("BF16", 2), "float16": Dtype("F16", 2), "float32": Dtype("F32", 4)}
"""Dtypes of weights that are taken."""

_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of an export.

    Example:
        FileEntry(bytes=12345, hash="9f86...")
    """

    bytes: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of an export, as it lies in its file.

    Example:
        TensorEntry(shape=(128,), dtype="bfloat16", file="model.safetensors", hash="9f86...")
    """

    shape: tuple[int, ...]
    dtype: str
    file: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an export holds.

    Example:
        Manifest(policy_version=7, dtype="bfloat16", files={...}, tensors={...})
    """

    policy_version: int
    dtype: str
    files: dict[str, FileEntry]
    """Every file but the manifest, by name."""
    tensors: dict[str, TensorEntry]
    """By Hugging Face name."""

    @property
    def digest(self) -> str:
        """Hex hash over names, shapes, dtypes and hashes of all tensors: it names the exact weights, however they are
        spread over files."""
        facts = [[name, one.shape, one.dtype, one.hash] for name, one in sorted(self.tensors.items())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to_json(self) -> str:
        """The content of manifest.json."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"


class Place(NamedTuple):
    """Where a safetensors file says that a tensor lies; first and last + 1 byte of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first: int
    end: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished export. Raises UserError where there is none, or one that cannot be read."""
    return read_part(Path(folder) / FILE_NAME)


def read_part(file: Path) -> Manifest:
    """A manifest, or one process's part of it, from its file. Raises UserError as `read_manifest` does."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{file} has format {content['format']}; this version reads {FORMAT}: export again")
        return Manifest(
            policy_version=int(content["policy_version"]),
            dtype=str(content["dtype"]),
            files={name: FileEntry(**entry) for name, entry in content["files"].items()},
            tensors={
                name: TensorEntry(**entry | {"shape": tuple(entry["shape"])})
                for name, entry in content["tensors"].items()
            },
        )
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); {file.parent} is no finished export") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a manifest ({type(error).__name__}: {error}); export again") from error


def check_files(manifest: Manifest, folder: Path, *, contents: bool) -> None:
    """Raises UserError that names file and tensor where a file is missing, of another size, or has a header that says
    something else than the manifest; with `contents`, where any byte differs. That reads everything, on all cores."""
    folder = Path(folder)
    places = {name: _check_file(manifest, folder, name) for name in manifest.files}
    listed = {place.name for found in places.values() for place in found}
    for name, entry in manifest.tensors.items():
        if name not in listed:
            raise UserError(f"{folder / entry.file} lacks tensor {name}, which {FILE_NAME} puts there; export again")
    if contents:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tensors = [(folder / file, place) for file, found in places.items() for place in found]
            hashes = pool.map(lambda one: hash_range(one[0], one[1].first, one[1].end), tensors)
            for (file, place), got in zip(tensors, hashes, strict=True):
                if got != manifest.tensors[place.name].hash:
                    raise _changed(file, f"tensor {place.name}")
        for name, found in places.items():
            _check_rest(manifest, folder / name, found)


def _check_file(manifest: Manifest, folder: Path, name: str) -> list[Place]:
    """Where the tensors of a file lie, after its size and its header are found to be right."""
    file, entry = folder / name, manifest.files[name]
    own = {tensor: one for tensor, one in manifest.tensors.items() if one.file == name}
    try:
        size = file.stat().st_size
        places = read_header(file) if own else []
    except FileNotFoundError:
        holds = f" with {len(own)} tensors, the first {next(iter(own))}" if own else ""
        raise UserError(f"{file}{holds} is missing; export again") from None
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); mend its permissions or export again") from error
    except ValueError as error:
        raise UserError(
            f"{file} has {size} of {entry.bytes} bytes and no readable header ({error}), so {next(iter(own))} and "
            f"{len(own) - 1} more tensors are lost; export again"
        ) from error
    if size != entry.bytes:
        cut = next((f" within tensor {place.name}" for place in places if place.end > size), "")
        raise UserError(f"{file} is torn{cut}: it has {size} bytes, {entry.bytes} were written; export again")
    for place in places:
        wanted = own.get(place.name)
        if wanted is None or (place.dtype, place.shape) != (wanted.dtype, wanted.shape):
            asked = f"asks for {wanted.dtype} {wanted.shape}" if wanted else "has no such tensor there"
            raise UserError(
                f"{file} has tensor {place.name}, {place.dtype} {place.shape}; {FILE_NAME} {asked}: export again"
            )
    return places


def _check_rest(manifest: Manifest, file: Path, places: list[Place]) -> None:
    """Compares the hash of a whole file, whose tensors are found to be right."""
    if places:
        got = file_hash(header_bytes(file), [manifest.tensors[place.name].hash for place in places])
    else:
        got = hash_range(file, 0, file.stat().st_size)
    if got != manifest.files[file.name].hash:
        raise _changed(file, "its header" if places else "its bytes")


def _changed(file: Path, what: str) -> UserError:
    return UserError(f"{file} was changed after it was written: {what} differs from {FILE_NAME}; export again")


def file_hash(header: bytes, tensor_hashes: list[str]) -> str:
    """The hash of a safetensors file: of its first bytes up to the data, and of its tensors' hashes in file order."""
    return hashlib.sha256(header + "".join(tensor_hashes).encode()).hexdigest()


def hash_range(file: Path, first: int, end: int) -> str:
    """The hash of a part of a file."""
    state, buffer = hashlib.sha256(), memoryview(bytearray(min(_BUFFER_BYTES, max(end - first, 1))))
    with file.open("rb", buffering=0) as opened:
        opened.seek(first)
        while first < end and (got := opened.readinto(buffer[: min(len(buffer), end - first)])):
            state.update(buffer[:got])
            first += got
    return state.hexdigest()


def read_index(folder: Path) -> dict[str, str]:
    """Each tensor's file, as the folder's index says; empty where there is none. Raises UserError."""
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        found = {str(name): str(file) for name, file in json.loads(path.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} has no readable weight_map ({error}); download the model again") from error
    for tensor, file in found.items():
        if "/" in file or not file.endswith(".safetensors"):
            raise UserError(f"{path} puts tensor {tensor} into {file!r}, which is no *.safetensors beside it")
    if not found:
        raise UserError(f"{path} has an empty weight_map; download the model again")
    return found


def read_header(file: Path) -> list[Place]:
    """Where the tensors of a safetensors file lie, in file order. Raises ValueError where that cannot be read."""
    return parse_header(header_bytes(file))


def parse_header(header: bytes) -> list[Place]:
    """Where the tensors of a file lie, in file order, by the file's first bytes. Raises ValueError where they are no
    table of tensors that follow each other without a gap."""
    names = {dtype.code: name for name, dtype in DTYPES.items()}
    try:
        content = json.loads(header[8:].decode(), object_pairs_hook=_without_twins)
        content.pop("__metadata__", None)
        places = [
            Place(
                name,
                names.get(entry["dtype"], str(entry["dtype"])),
                tuple(entry["shape"]),
                *(len(header) + at for at in entry["data_offsets"]),
            )
            for name, entry in content.items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no table of tensors: {error!r}") from error
    at = len(header)
    for place in sorted(places, key=lambda place: (place.first, place.end)):
        size = math.prod(place.shape) * (DTYPES[place.dtype].itemsize if place.dtype in DTYPES else 0)
        if place.first != at or (size and place.end != at + size):
            raise ValueError(
                f"tensor {place.name}, {place.dtype} {place.shape}, is said to be in bytes {place.first} to {place.end}"
            )
        at = place.end
    return sorted(places, key=lambda place: place.first)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twins = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twins:
        raise ValueError(f"tensor {twins[0]} is there twice")
    return dict(pairs)


def header_bytes(file: Path) -> bytes:
    """A safetensors file up to its data: eight bytes of length, then JSON. Raises ValueError where it has no header."""
    with file.open("rb") as opened:
        length = opened.read(8)
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > file.stat().st_size:
            raise ValueError("its first 8 bytes state no length")
        return length + opened.read(size)
