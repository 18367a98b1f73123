"""Hugging Face directories of Qwen3, read and written: one name table (name_table.py), both directions.

In: a folder with config.json and *.safetensors, one that scripts/convert.py from-hf has written, or a model. Out: a
float32 model of NumPy arrays, or a folder of the first kind. Reading and writing in the file's dtype gives the same
bits.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

from nouscoder_jax.config import UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import NAME_TABLE, abstract_model, to_hf
from nouscoder_jax.model.qwen3 import Qwen3, param_name
from nouscoder_jax.model.weights_reader import WeightsReader

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""Copied beside exported weights where they exist."""

TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Kept from the config.json beside the tokenizer."""


def read_config(path: Path) -> dict[str, Any]:
    """Returns the parsed config.json of a Hugging Face directory. Raises UserError where there is none to read."""
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({error.strerror}); a model directory holds config.json and *.safetensors"
        ) from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); export or download the model again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}; a JSON object was expected")
    return config


def load_model(path: Path | str, *, architecture: Architecture | None = None) -> tuple[Architecture, Qwen3]:
    """Returns the architecture of a Hugging Face directory, or of one that from-hf has converted, and its weights as a
    float32 model of NumPy arrays.

    `architecture` counts in place of the one in its config.json, where given (YaRN: `Architecture.stretched`).

    Raises:
        UserError: no config.json, an unknown architecture, a truncated file, a missing, unexpected or misshapen tensor;
            it names the file or the tensor.
    """
    path = Path(path)
    reader = WeightsReader(path, architecture or Architecture.from_hf(read_config(path)), only_finite=False)

    def read(leaf_path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        return reader.block(param_name(leaf_path), [slice(None)] * len(leaf.shape))

    return reader.architecture, jax.tree.map_with_path(read, abstract_model(reader.architecture))


def hf_tensors(model: Qwen3, *, dtype: Literal["float32", "bfloat16"]) -> dict[str, Shaped[np.ndarray, ...]]:
    """Returns the model's weights under Hugging Face names and layouts; a tied lm_head is left out."""
    tensors = {}
    leaves = {param_name(path): leaf for path, leaf in jax.tree.leaves_with_path(model)}
    target = np.dtype(jax.numpy.dtype(dtype))
    for name, leaf in leaves.items():
        entry = NAME_TABLE[name]
        array = np.asarray(leaf).astype(target)
        if "{layer}" in entry.hf_name:
            for layer in range(array.shape[0]):
                tensors[entry.hf_name.format(layer=layer)] = np.ascontiguousarray(to_hf(array[layer], entry))
        else:
            tensors[entry.hf_name] = np.ascontiguousarray(to_hf(array, entry))
    return tensors


def save_model(
    model: Qwen3,
    architecture: Architecture,
    out_dir: Path | str,
    *,
    dtype: Literal["float32", "bfloat16"],
    tokenizer_dir: Path | str | None,
) -> None:
    """Writes config.json (both dialects), model.safetensors and the tokenizer's files; the folder appears whole or not.

    An `out_dir` that holds an earlier export is replaced.

    Raises:
        UserError: the folder cannot be written, or it holds something else than an export.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (
        not out_dir.is_dir() or (any(out_dir.iterdir()) and not (out_dir / "config.json").exists())
    ):
        raise UserError(f"{out_dir} exists and is not a model directory; choose another place for the export")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_sibling(out_dir)
    except OSError as error:
        raise UserError(f"cannot write {out_dir} ({error.strerror}); choose a folder you may write to") from error
    try:
        describe(architecture, temporary, dtype=dtype, tokenizer_dir=tokenizer_dir)
        safetensors.numpy.save_file(
            hf_tensors(model, dtype=dtype), temporary / "model.safetensors", metadata={"format": "pt"}
        )
        # safetensors makes files that only their owner reads; a server may be somebody else
        (temporary / "model.safetensors").chmod(temporary.stat().st_mode & 0o666)
        _swap(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe(
    architecture: Architecture,
    folder: Path,
    *,
    dtype: str,
    tokenizer_dir: Path | str | None,
) -> list[str]:
    """Writes config.json (both dialects) and the tokenizer's files, and returns their names. The token ids are those
    that the tokenizer's own config.json states."""
    config = architecture.to_hf() | {"dtype": dtype, "torch_dtype": dtype}
    names = []
    if tokenizer_dir is not None:
        names = [name for name in TOKENIZER_FILES if (Path(tokenizer_dir) / name).exists()]
        for name in names:
            shutil.copyfile(Path(tokenizer_dir) / name, folder / name)
        if (Path(tokenizer_dir) / "config.json").exists():
            theirs = read_config(Path(tokenizer_dir))
            config |= {key: theirs[key] for key in TOKEN_ID_KEYS if key in theirs}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return ["config.json", *names]


def _new_sibling(out_dir: Path) -> Path:
    """A new hidden folder beside `out_dir`, with the rights that the umask gives (tempfile's are the owner's only)."""
    folder = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.{secrets.token_hex(4)}")
    folder.mkdir()
    return folder


def _swap(temporary: Path, out_dir: Path) -> None:
    """Renames `temporary` to `out_dir`; an earlier export steps aside first and is deleted after."""
    if not out_dir.exists():
        os.rename(temporary, out_dir)
        return
    earlier = _new_sibling(out_dir)
    os.rename(out_dir, earlier / out_dir.name)
    os.rename(temporary, out_dir)
    shutil.rmtree(earlier)
