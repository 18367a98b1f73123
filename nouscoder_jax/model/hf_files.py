"""The safetensors files of a Hugging Face directory, checked by their headers before a byte of a weight is read.

In: a folder, its architecture. Out: `HfFiles`: each file's header as it is, and where each tensor lies; UserError that
names tensor and file for whatever is truncated, missing, too much, twice, misnamed, misshapen or misplaced.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import DTYPES, INDEX, Place, header_bytes, parse_header, read_index
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import Piece, abstract_model, hf_pieces

SINGLE = "model.safetensors"
TIED_HEAD = "lm_head.weight"
"""May stand in a file though the embedding is tied; it must be the embedding then."""
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class HfFiles:
    """What a folder's safetensors hold.

    Example:
        HfFiles(headers={"model.safetensors": b"..."}, places={"model.norm.weight": ("model.safetensors", Place(...))},
                pieces={"model.norm.weight": Piece("norm", None, (128,))}, dtypes={"norm": "bfloat16"})
    """

    headers: dict[str, bytes]
    """Each file's first bytes, up to its data, by its name."""
    places: dict[str, tuple[str, Place]]
    """Each tensor's file, and where in it."""
    pieces: dict[str, Piece]
    """Each tensor of the architecture, in the order of our parameters; a tied head is none of them."""
    dtypes: dict[str, str]
    """Of our parameters."""

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        last = {file: len(header) for file, header in self.headers.items()}
        for file, place in self.places.values():
            last[file] = max(last[file], place.end)
        return sum(last.values())


def read_files(folder: Path, architecture: Architecture) -> HfFiles:
    """The safetensors of a folder, all of them checked against the index, where there is one, and the architecture.

    Raises:
        UserError: the first thing that is wrong, by tensor and file.
    """
    index = read_index(folder)
    names = sorted(set(index.values())) if index else [SINGLE]
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in names)
    if others:
        what = f"is not named in {INDEX}" if index else f"needs an {INDEX}, which is not there"
        raise UserError(f"{folder / others[0]} {what}; download the model again, or move the file away")
    headers, found = {}, {}
    for name in names:
        path = folder / name
        held = next((tensor for tensor, file in index.items() if file == name), None)
        if not path.is_file():
            asked = f" with tensor {held}, which {INDEX} puts there" if held else ", as is an index"
            raise UserError(f"{path}{asked} is missing; a model directory holds all its *.safetensors")
        headers[name], places = _read_places(path, held)
        for place in places:
            if place.name in found:
                raise UserError(
                    f"tensor {place.name} is in two files, {folder / found[place.name][0]} and {path}; keep one"
                )
            found[place.name] = (name, place)
    _compare_with_index(folder, index, found)
    return checked(folder, architecture, headers=headers, places=found)


def checked(
    folder: Path, architecture: Architecture, *, headers: dict[str, bytes], places: dict[str, tuple[str, Place]]
) -> HfFiles:
    """The same as HfFiles, once the tensors are found to be just those of the architecture. Raises UserError."""
    pieces = hf_pieces(abstract_model(architecture))
    expected = {name: piece.shape for name, piece in pieces.items()}
    if architecture.tie_word_embeddings and TIED_HEAD in places:
        expected[TIED_HEAD] = pieces[EMBEDDING].shape
    missing = [name for name in expected if name not in places]
    for name, (file, place) in places.items():
        if name not in expected:
            raise _unexpected(folder / file, name, missing)
        if place.shape != expected[name]:
            raise UserError(
                f"{folder / file}: tensor {name} has shape {place.shape}; its config.json asks for {expected[name]}"
            )
    if missing:
        near = [file for name, (file, _) in places.items() if _layer(name) == _layer(missing[0])]
        where = f"{folder / near[0]}, which holds its neighbours, or another file of" if near else "no file of"
        raise UserError(
            f"tensor {missing[0]} is missing: it should be in {where} {folder} ({len(missing)} missing in all); "
            "download the model again"
        )
    return HfFiles(headers=headers, places=places, pieces=pieces, dtypes=_dtypes(folder, pieces, places))


def write_index(folder: Path, files: dict[str, str], *, total_bytes: int) -> None:
    """Writes the index of a directory with several files: `files` has each tensor's. Raises OSError."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(files.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _read_places(path: Path, held: str | None) -> tuple[bytes, list[Place]]:
    """The header of a file and its tensors, which all end within the file. `held`: one that should be there."""
    lost = f", so tensor {held} and others are lost" if held else ""
    try:
        header, size = header_bytes(path), path.stat().st_size
        places = parse_header(header)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}){lost}; mend its permissions") from error
    except ValueError as error:
        raise UserError(
            f"{path} is truncated or not safetensors: no readable header ({error}){lost}; download it again"
        ) from error
    end = places[-1].end if places else len(header)
    if size != end:
        cut = next((f" within tensor {place.name}" for place in places if place.end > size), "")
        what = f"is truncated{cut}" if size < end else "goes on after its last tensor"
        raise UserError(f"{path} {what}: it has {size} bytes, its header asks for {end}; download it again")
    return header, places


def _compare_with_index(folder: Path, index: dict[str, str], found: dict[str, tuple[str, Place]]) -> None:
    unnamed = [tensor for tensor in found if tensor not in index]
    for tensor, file in index.items():
        if tensor not in found:
            near = difflib.get_close_matches(tensor, unnamed, n=1, cutoff=0.6)
            fix = f"has it the wrong name {near[0]}?" if near else "download it again"
            raise UserError(f"{folder / file} lacks tensor {tensor}, which {INDEX} puts there; {fix}")
        if found[tensor][0] != file:
            raise UserError(f"tensor {tensor} is in {folder / found[tensor][0]}, but {INDEX} says {file}; mend {INDEX}")
    for tensor, (file, _) in found.items():
        if index and tensor not in index:
            raise UserError(f"{folder / file} has tensor {tensor}, which {INDEX} does not name; mend one of them")


def _unexpected(file: Path, name: str, missing: list[str]) -> UserError:
    near = difflib.get_close_matches(name, missing, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}, which is missing?" if near else "is config.json of another model?"
    return UserError(f"{file} has tensor {name}, which the architecture in its config.json has not; {hint}")


def _layer(name: str) -> str:
    """Everything up to a layer's number: `model.layers.7`; of the rest, the name's beginning."""
    return ".".join(name.split(".")[:3])


def _dtypes(folder: Path, pieces: dict[str, Piece], places: dict[str, tuple[str, Place]]) -> dict[str, str]:
    """Of our parameters; one dtype for all layers of each."""
    first: dict[str, str] = {}
    for name, piece in pieces.items():
        file, place = places[name]
        if place.dtype not in DTYPES:
            raise UserError(
                f"{folder / file}: tensor {name} has dtype {place.dtype}; {', '.join(DTYPES)} are supported"
            )
        if first.setdefault(piece.name, place.dtype) != place.dtype:
            raise UserError(
                f"{folder / file}: tensor {name} has dtype {place.dtype} and other layers have {first[piece.name]}; "
                "one dtype for all layers of a parameter was expected"
            )
    head = places.get(TIED_HEAD)
    if head and TIED_HEAD not in pieces and head[1].dtype != first["embed_tokens"]:
        raise UserError(
            f"{folder / head[0]}: tensor {TIED_HEAD} has dtype {head[1].dtype}, its tied embedding "
            f"{first['embed_tokens']}; make them one"
        )
    return first
