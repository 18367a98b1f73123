"""Hugging Face directories of Qwen3, read and written: one name table, both directions.

In: a folder with config.json and *.safetensors, or a model. Out: a float32 model of NumPy arrays, or such a folder.
Theirs has one tensor a layer, matrices as [out, in], heads flattened; ours has layers stacked, matrices as [in, out],
heads as a dimension. Reading and writing in the file's dtype gives the same bits.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from nouscoder_jax.config import UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import Qwen3, init, param_name


class _Entry(NamedTuple):
    """How one of our parameters lies in their files."""

    hf_name: str
    """With `{layer}` where theirs has one tensor a layer."""
    input_dims: int
    """Leading dimensions of ours that are a matrix's input and so come last in theirs; 0: same order, no matrix."""


NAME_TABLE: dict[str, _Entry] = {
    "embed_tokens": _Entry("model.embed_tokens.weight", 0),
    "layers/attention_norm": _Entry("model.layers.{layer}.input_layernorm.weight", 0),
    "layers/attention/q_proj": _Entry("model.layers.{layer}.self_attn.q_proj.weight", 1),
    "layers/attention/k_proj": _Entry("model.layers.{layer}.self_attn.k_proj.weight", 1),
    "layers/attention/v_proj": _Entry("model.layers.{layer}.self_attn.v_proj.weight", 1),
    "layers/attention/o_proj": _Entry("model.layers.{layer}.self_attn.o_proj.weight", 2),
    "layers/attention/q_bias": _Entry("model.layers.{layer}.self_attn.q_proj.bias", 0),
    "layers/attention/k_bias": _Entry("model.layers.{layer}.self_attn.k_proj.bias", 0),
    "layers/attention/v_bias": _Entry("model.layers.{layer}.self_attn.v_proj.bias", 0),
    "layers/attention/o_bias": _Entry("model.layers.{layer}.self_attn.o_proj.bias", 0),
    "layers/attention/q_norm": _Entry("model.layers.{layer}.self_attn.q_norm.weight", 0),
    "layers/attention/k_norm": _Entry("model.layers.{layer}.self_attn.k_norm.weight", 0),
    "layers/mlp_norm": _Entry("model.layers.{layer}.post_attention_layernorm.weight", 0),
    "layers/mlp/gate_proj": _Entry("model.layers.{layer}.mlp.gate_proj.weight", 1),
    "layers/mlp/up_proj": _Entry("model.layers.{layer}.mlp.up_proj.weight", 1),
    "layers/mlp/down_proj": _Entry("model.layers.{layer}.mlp.down_proj.weight", 1),
    "norm": _Entry("model.norm.weight", 0),
    "lm_head": _Entry("lm_head.weight", 0),
}
"""Our parameter names (`qwen3.param_name`) and where each lies in a Hugging Face file."""

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


class _Piece(NamedTuple):
    """One of their tensors: of which of our parameters, which layer of it (None: all of it), and their shape."""

    name: str
    layer: int | None
    shape: tuple[int, ...]


def _to_hf(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if entry.input_dims == 0:
        return array if "embed_tokens" in entry.hf_name or "lm_head" in entry.hf_name else array.reshape(-1)
    return array.reshape(int(np.prod(array.shape[: entry.input_dims])), -1).T


def _to_ours(array: np.ndarray, entry: _Entry, shape: tuple[int, ...]) -> np.ndarray:
    return (array if entry.input_dims == 0 else array.T).reshape(shape)


def abstract_model(architecture: Architecture) -> Qwen3:
    """Returns the model with shapes and dtypes in place of arrays."""
    return jax.eval_shape(partial(init, architecture), jax.random.key(0))


def _pieces(abstract: Qwen3) -> dict[str, _Piece]:
    """Returns every tensor that a Hugging Face file of this model holds, by its name there."""
    pieces = {}
    for path, leaf in jax.tree.leaves_with_path(abstract):
        name = param_name(path)
        entry = NAME_TABLE[name]
        stacked = "{layer}" in entry.hf_name
        shape = leaf.shape[1:] if stacked else leaf.shape
        hf_shape = _to_hf(np.broadcast_to(np.float32(0), shape), entry).shape
        for layer in range(leaf.shape[0]) if stacked else [None]:
            pieces[entry.hf_name.format(layer=layer)] = _Piece(name, layer, hf_shape)
    return pieces


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


def _weight_files(path: Path) -> list[Path]:
    """Returns the safetensors files of a directory, by its index where it has one."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            files = [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} has no readable weight_map ({error}); download the model again") from error
    else:
        files = [path / "model.safetensors"]
    for file in files:
        if not file.exists():
            raise UserError(f"{file} is missing; a model directory holds all its *.safetensors")
    return files


def load_model(path: Path | str) -> tuple[Architecture, Qwen3]:
    """Returns the architecture of a Hugging Face directory and its weights as a float32 model of NumPy arrays.

    Raises:
        UserError: no config.json, an unknown architecture, a truncated file, or a missing, unexpected or misshapen
            tensor; it names the file or the tensor.
    """
    path = Path(path)
    architecture = Architecture.from_hf(read_config(path))
    abstract = abstract_model(architecture)
    arrays = {param_name(p): np.empty(leaf.shape, np.float32) for p, leaf in jax.tree.leaves_with_path(abstract)}
    missing = _pieces(abstract)
    tied_head = None
    for file in _weight_files(path):
        try:
            with safetensors.safe_open(file, framework="np") as handle:
                for hf_name in handle.keys():  # noqa: SIM118 (a safetensors handle is no dict)
                    tensor = handle.get_tensor(hf_name)
                    if hf_name == "lm_head.weight" and architecture.tie_word_embeddings:
                        tied_head = np.asarray(tensor, np.float32)
                        continue
                    _place(arrays, missing, hf_name, tensor, file)
        except safetensors.SafetensorError as error:
            raise UserError(f"{file} is truncated or not safetensors ({error}); copy it again") from error
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} tensors that its config.json asks for, the first {next(iter(missing))}"
        )
    if tied_head is not None and not np.array_equal(tied_head, arrays["embed_tokens"]):
        raise UserError(
            f"{path} has an lm_head.weight that differs from its embedding; set tie_word_embeddings to false"
        )
    return architecture, jax.tree.map_with_path(lambda p, _: arrays[param_name(p)], abstract)


def _place(
    arrays: dict[str, np.ndarray], missing: dict[str, _Piece], hf_name: str, tensor: np.ndarray, file: Path
) -> None:
    """Puts one of their tensors into our arrays and crosses it off `missing`."""
    piece = missing.pop(hf_name, None)
    if piece is None:
        raise UserError(f"{file} has tensor {hf_name}, unexpected or twice for the architecture in its config.json")
    if tensor.shape != piece.shape:
        raise UserError(f"{file}: tensor {hf_name} has shape {tensor.shape}; its config.json asks for {piece.shape}")
    target = arrays[piece.name] if piece.layer is None else arrays[piece.name][piece.layer]
    target[...] = _to_ours(np.asarray(tensor, np.float32), NAME_TABLE[piece.name], target.shape)


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
                tensors[entry.hf_name.format(layer=layer)] = np.ascontiguousarray(_to_hf(array[layer], entry))
        else:
            tensors[entry.hf_name] = np.ascontiguousarray(_to_hf(array, entry))
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
        config = architecture.to_hf() | {"dtype": dtype, "torch_dtype": dtype}
        config |= _copy_tokenizer(tokenizer_dir, temporary)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        safetensors.numpy.save_file(
            hf_tensors(model, dtype=dtype), temporary / "model.safetensors", metadata={"format": "pt"}
        )
        # safetensors makes files that only their owner reads; a server may be somebody else
        (temporary / "model.safetensors").chmod(temporary.stat().st_mode & 0o666)
        _swap(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_tokenizer(tokenizer_dir: Path | str | None, target: Path) -> dict[str, Any]:
    """Copies the tokenizer's files and returns the token ids that its own config.json states."""
    if tokenizer_dir is None:
        return {}
    for name in TOKENIZER_FILES:
        if (Path(tokenizer_dir) / name).exists():
            shutil.copyfile(Path(tokenizer_dir) / name, target / name)
    if not (Path(tokenizer_dir) / "config.json").exists():
        return {}
    config = read_config(Path(tokenizer_dir))
    return {key: config[key] for key in TOKEN_ID_KEYS if key in config}


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
