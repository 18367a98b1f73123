"""The name table of Qwen3: which Hugging Face tensor is which of our parameters, and how it lies in their files.

In: an architecture. Out: every tensor's name, parameter, layer and shape. Theirs has one tensor a layer, matrices as
[out, in], heads flattened; ours has layers stacked, matrices as [in, out], heads as a dimension.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import Qwen3, init, param_name


class Entry(NamedTuple):
    """How one of our parameters lies in their files."""

    hf_name: str
    """With `{layer}` where theirs has one tensor a layer."""
    input_dims: int
    """Leading dimensions of ours that are a matrix's input and so come last in theirs; 0: same order, no matrix."""


NAME_TABLE: dict[str, Entry] = {
    "embed_tokens": Entry("model.embed_tokens.weight", 0),
    "layers/attention_norm": Entry("model.layers.{layer}.input_layernorm.weight", 0),
    "layers/attention/q_proj": Entry("model.layers.{layer}.self_attn.q_proj.weight", 1),
    "layers/attention/k_proj": Entry("model.layers.{layer}.self_attn.k_proj.weight", 1),
    "layers/attention/v_proj": Entry("model.layers.{layer}.self_attn.v_proj.weight", 1),
    "layers/attention/o_proj": Entry("model.layers.{layer}.self_attn.o_proj.weight", 2),
    "layers/attention/q_bias": Entry("model.layers.{layer}.self_attn.q_proj.bias", 0),
    "layers/attention/k_bias": Entry("model.layers.{layer}.self_attn.k_proj.bias", 0),
    "layers/attention/v_bias": Entry("model.layers.{layer}.self_attn.v_proj.bias", 0),
    "layers/attention/o_bias": Entry("model.layers.{layer}.self_attn.o_proj.bias", 0),
    "layers/attention/q_norm": Entry("model.layers.{layer}.self_attn.q_norm.weight", 0),
    "layers/attention/k_norm": Entry("model.layers.{layer}.self_attn.k_norm.weight", 0),
    "layers/mlp_norm": Entry("model.layers.{layer}.post_attention_layernorm.weight", 0),
    "layers/mlp/gate_proj": Entry("model.layers.{layer}.mlp.gate_proj.weight", 1),
    "layers/mlp/up_proj": Entry("model.layers.{layer}.mlp.up_proj.weight", 1),
    "layers/mlp/down_proj": Entry("model.layers.{layer}.mlp.down_proj.weight", 1),
    "norm": Entry("model.norm.weight", 0),
    "lm_head": Entry("lm_head.weight", 0),
}
"""Our parameter names (`qwen3.param_name`) and where each lies in a Hugging Face file."""


class Piece(NamedTuple):
    """One of their tensors: of which of our parameters, which layer of it (None: all of it), and their shape."""

    name: str
    layer: int | None
    shape: tuple[int, ...]


def to_hf(array: Shaped[jax.Array | np.ndarray, ...], entry: Entry) -> Shaped[jax.Array | np.ndarray, ...]:
    """Returns one of our parameters, of one layer where it is stacked, in their layout."""
    if entry.input_dims == 0:
        return array if "embed_tokens" in entry.hf_name or "lm_head" in entry.hf_name else array.reshape(-1)
    return array.reshape(int(np.prod(array.shape[: entry.input_dims])), -1).T


def to_ours(array: Shaped[np.ndarray, ...], entry: Entry, shape: tuple[int, ...]) -> Shaped[np.ndarray, ...]:
    """Returns one of their tensors in the layout of ours, which has this shape without its layers."""
    return (array if entry.input_dims == 0 else array.T).reshape(shape)


def abstract_model(architecture: Architecture) -> Qwen3:
    """Returns the model with shapes and dtypes in place of arrays."""
    return jax.eval_shape(partial(init, architecture), jax.random.key(0))


def hf_pieces(abstract: Qwen3) -> dict[str, Piece]:
    """Returns every tensor that a Hugging Face file of this model holds, by its name there."""
    pieces = {}
    for path, leaf in jax.tree.leaves_with_path(abstract):
        name = param_name(path)
        entry = NAME_TABLE[name]
        stacked = "{layer}" in entry.hf_name
        shape = leaf.shape[1:] if stacked else leaf.shape
        hf_shape = to_hf(np.broadcast_to(np.float32(0), shape), entry).shape
        for layer in range(leaf.shape[0]) if stacked else [None]:
            pieces[entry.hf_name.format(layer=layer)] = Piece(name, layer, hf_shape)
    return pieces
