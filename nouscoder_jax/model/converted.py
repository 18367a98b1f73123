"""A converted folder: what `scripts/convert.py from-hf` writes, and everything that reads it.

In: a folder. Out: `Converted`: its tensors under Hugging Face names, checked against the CRC-32 of each chunk.

    config.json, tokenizer.json ...    as they were
    params/                            an Orbax checkpoint: a nested dict of stacked arrays under our names
    params/layers.mlp.up_proj/c.3.0.0  a chunk: layer 3, the bytes of the Hugging Face tensor (model/chunks.py)
    hf_files.json                      {"format": 1, "headers": {"model.safetensors": "..."}, "crc32": {chunk: ...}}

With the headers of the safetensors the same files can be written again, to the byte.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import parse_header
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.blocks import read_blocks
from nouscoder_jax.model.chunks import Chunk, Layout, array_folder, chunks_of, make_layouts
from nouscoder_jax.model.hf_files import HfFiles, checked

PARAMS = "params"
DESCRIPTION = "hf_files.json"
FORMAT = 1
NUMPY_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("f2"), "float32": np.dtype("f4")}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A converted folder, its description read.

    Example:
        Converted(folder=Path("my-qwen"), files=HfFiles(...), layouts={"norm": Layout(...)}, crc32={"norm/c.0": 17})
    """

    folder: Path
    files: HfFiles
    """As they were, and as they will be again."""
    layouts: dict[str, Layout]
    crc32: dict[str, int]
    """Of each chunk, without the zeros at the end of the last one."""

    def chunks(self, hf_name: str) -> list[Chunk]:
        """The files of a tensor."""
        piece = self.files.pieces[hf_name]
        return chunks_of(piece, self.layouts[piece.name])

    def blocks(self, hf_name: str, chunk: Chunk) -> Iterator[tuple[int, Shaped[np.ndarray, " bytes"]]]:
        """Blocks of a chunk of a tensor, each after the byte of the tensor that it begins with. Raises UserError where
        the chunk is missing, truncated or damaged; the last after all blocks were handed out."""
        path, what = self.folder / PARAMS / chunk.path, f"tensor {hf_name}"
        at, crc = chunk.first, 0
        for block in read_blocks(path, 0, chunk.num_bytes, what=what):
            crc = zlib.crc32(block.data, crc)
            yield at, block
            at += block.size
        if crc != self.crc32.get(chunk.path):
            raise UserError(f"{path} is damaged: {what} has not the CRC-32 that {DESCRIPTION} states; convert it again")

    def tensor(self, hf_name: str) -> Shaped[np.ndarray, ...]:
        """One tensor in its dtype and their layout. Raises UserError as `blocks` does."""
        piece = self.files.pieces[hf_name]
        chunks = self.chunks(hf_name)
        data = np.empty(sum(chunk.num_bytes for chunk in chunks), np.uint8)
        for chunk in chunks:
            for at, block in self.blocks(hf_name, chunk):
                data[at : at + block.size] = block
        return data.view(NUMPY_DTYPES[self.layouts[piece.name].dtype]).reshape(piece.shape)


def is_converted(folder: Path) -> bool:
    """Whether from-hf has written this folder."""
    return (Path(folder) / DESCRIPTION).is_file()


def describe_files(files: HfFiles, crc32: dict[str, int]) -> str:
    """The content of hf_files.json."""
    headers = {name: header[8:].decode() for name, header in files.headers.items()}
    return json.dumps({"format": FORMAT, "headers": headers, "crc32": dict(sorted(crc32.items()))}, indent=1) + "\n"


def read_converted(folder: Path, architecture: Architecture) -> Converted:
    """The folder's description, once its arrays are found to be described as from-hf does it.

    Raises:
        UserError: a file that is missing or was changed, by name.
    """
    path = folder / DESCRIPTION
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise UserError(f"{path} has format {content['format']}; this version reads {FORMAT}: convert it again")
        texts = {name: text.encode() for name, text in content["headers"].items()}
        if not texts or any(Path(name).name != name for name in texts):
            raise ValueError(f"headers of {list(texts)}; names of files beside it were expected")
        headers = {name: len(text).to_bytes(8, "little") + text for name, text in texts.items()}
        places = {place.name: (name, place) for name, header in headers.items() for place in parse_header(header)}
        crc32 = {str(name): int(crc) for name, crc in content["crc32"].items()}
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); convert the model again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as from-hf wrote it ({error}); convert the model again") from error
    files = checked(folder, architecture, headers=headers, places=places)
    layouts = make_layouts(architecture, files.dtypes)
    for name, layout in layouts.items():
        _check_array(folder / PARAMS / array_folder(name) / "zarr.json", layout, name)
    return Converted(folder=folder, files=files, layouts=layouts, crc32=crc32)


def _check_array(path: Path, layout: Layout, name: str) -> None:
    try:
        got = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path} of parameter {name} ({error.strerror}); convert it again") from error
    except ValueError as error:
        raise UserError(f"{path} of parameter {name} is not JSON ({error}); convert it again") from error
    for key, wanted in layout.metadata().items():
        if got.get(key) != wanted:
            raise UserError(
                f"{path} of parameter {name} has {key} {got.get(key)}, from-hf wrote {wanted}; convert it again"
            )
