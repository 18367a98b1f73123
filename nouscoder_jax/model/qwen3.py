"""Qwen3 as Flax NNX modules, used as immutable pytrees: `init` makes one, `forward` runs it, `logits` ends it.

In: token ids, positions and segment ids "rows time". Out: final-normed hidden states "rows time embed". Layers are
stacked (leading dimension num_layers) and scanned. Only nnx.Param; only jax.* transforms. Parameters are float32 and
cast to the compute dtype where they are used; norms, rope and softmax are float32 always.

Einsum letters, here and in attention.py and generate.py: B rows, T query time, S key time, N query heads, K kv heads,
G = N/K queries per kv head, H head dim, D embed, F mlp, V vocab, L layers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key

from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.attention import ATTENTION
from nouscoder_jax.model.layer_scan import add_to_gradient, scan_layers
from nouscoder_jax.model.linear import project, swiglu, swiglu_in_chunks
from nouscoder_jax.model.rope import cos_sin, rotate
from nouscoder_jax.parallel import ONE_DEVICE, Parallel
from nouscoder_jax.sharding import param_name

__all__ = [
    "Architecture",
    "Attention",
    "Layers",
    "Mlp",
    "Qwen3",
    "forward",
    "forward_shards",
    "init",
    "logits",
    "output_embedding",
    "param_name",
]

MLP_CHUNK_TOKENS = 4096
"""With rematerialisation, tokens whose MLP activations exist at once on a device; 17,408 wide they take 0.7 GB."""

INITIALIZER_RANGE = 0.02
"""Standard deviation of fresh weights; initializer_range of every Qwen3 config.json."""


class _Context(NamedTuple):
    """What every layer sees: rope's angles and the segments of the rows."""

    cos: Array
    sin: Array
    segment_ids: Array


class Attention(nnx.Module):
    """Weights of grouped-query attention, of all layers at once. Biases only where the architecture has them."""

    def __init__(self, architecture: Architecture, keys: list[Key[Array, ""]]):
        a = architecture
        self.q_proj = nnx.Param(_normal(keys[0], (a.num_layers, a.hidden_size, a.num_heads, a.head_dim)))
        self.k_proj = nnx.Param(_normal(keys[1], (a.num_layers, a.hidden_size, a.num_kv_heads, a.head_dim)))
        self.v_proj = nnx.Param(_normal(keys[2], (a.num_layers, a.hidden_size, a.num_kv_heads, a.head_dim)))
        self.o_proj = nnx.Param(_normal(keys[3], (a.num_layers, a.num_heads, a.head_dim, a.hidden_size)))
        self.q_norm = nnx.Param(jnp.ones((a.num_layers, a.head_dim)))
        self.k_norm = nnx.Param(jnp.ones((a.num_layers, a.head_dim)))
        if a.attention_bias:
            self.q_bias = nnx.Param(jnp.zeros((a.num_layers, a.num_heads, a.head_dim)))
            self.k_bias = nnx.Param(jnp.zeros((a.num_layers, a.num_kv_heads, a.head_dim)))
            self.v_bias = nnx.Param(jnp.zeros((a.num_layers, a.num_kv_heads, a.head_dim)))
            self.o_bias = nnx.Param(jnp.zeros((a.num_layers, a.hidden_size)))


class Mlp(nnx.Module):
    """Weights of SwiGLU, of all layers at once."""

    def __init__(self, architecture: Architecture, keys: list[Key[Array, ""]]):
        a = architecture
        self.gate_proj = nnx.Param(_normal(keys[0], (a.num_layers, a.hidden_size, a.intermediate_size)))
        self.up_proj = nnx.Param(_normal(keys[1], (a.num_layers, a.hidden_size, a.intermediate_size)))
        self.down_proj = nnx.Param(_normal(keys[2], (a.num_layers, a.intermediate_size, a.hidden_size)))


class Layers(nnx.Module):
    """Weights of all transformer layers, stacked; inside `forward`'s scan, of one."""

    def __init__(self, architecture: Architecture, keys: list[Key[Array, ""]]):
        a = architecture
        self.attention_norm = nnx.Param(jnp.ones((a.num_layers, a.hidden_size)))
        self.attention = Attention(a, keys[:4])
        self.mlp_norm = nnx.Param(jnp.ones((a.num_layers, a.hidden_size)))
        self.mlp = Mlp(a, keys[4:7])


class Qwen3(nnx.Module):
    """All weights of a Qwen3 and, as static data, its architecture."""

    def __init__(self, architecture: Architecture, key: Key[Array, ""]):
        a = architecture
        keys = list(jax.random.split(key, 9))
        self.architecture = architecture
        self.embed_tokens = nnx.Param(_normal(keys[0], (a.vocab_size, a.hidden_size)))
        self.layers = Layers(a, keys[1:8])
        self.norm = nnx.Param(jnp.ones((a.hidden_size,)))
        if not a.tie_word_embeddings:
            self.lm_head = nnx.Param(_normal(keys[8], (a.vocab_size, a.hidden_size)))


def _normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, ...]:
    # Drawn flat: XLA's CPU compiler takes 5 s for threefry in four dimensions and 0.3 s for it in one (jax 0.10).
    return INITIALIZER_RANGE * jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


def init(architecture: Architecture, key: Key[Array, ""]) -> Qwen3:
    """Returns a float32 model with normal weights of std 0.02 and norms of 1.

    Pure: `jax.jit(partial(init, architecture), out_shardings=...)` makes it sharded, `jax.eval_shape` for free.
    """
    return Qwen3(architecture, key)


def rms_norm(x: Float[Array, "*shape dim"], weight: Float[Array, " dim"], *, eps: float) -> Float[Array, "*shape dim"]:
    """Returns x / sqrt(mean(x^2) + eps) * weight, computed in float32, in the dtype of x (arXiv:1910.07467)."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    weight = weight.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return (wide * scale * weight).astype(x.dtype)


def _attention_block(
    weights: Attention, x: Array, context: _Context, *, attention: str, eps: float, parallel: Parallel
) -> Array:
    """Returns the attention branch of one layer, before it is added to the residual stream."""
    x = parallel.copy_to_tensor(x)
    q = project("BTD,DNH->BTNH", x, weights.q_proj[...])
    k = project("BTD,DKH->BTKH", x, weights.k_proj[...])
    v = project("BTD,DKH->BTKH", x, weights.v_proj[...])
    has_bias = hasattr(weights, "q_bias")
    if has_bias:
        q = q + weights.q_bias[...].astype(x.dtype)[None, None]
        k = k + weights.k_bias[...].astype(x.dtype)[None, None]
        v = v + weights.v_bias[...].astype(x.dtype)[None, None]
    q = rotate(rms_norm(q, parallel.copy_to_tensor(weights.q_norm[...]), eps=eps), context.cos, context.sin)
    k = rotate(rms_norm(k, parallel.copy_to_tensor(weights.k_norm[...]), eps=eps), context.cos, context.sin)
    attended = ATTENTION[attention](q, k, v, context.segment_ids)
    out = parallel.all_reduce(project("BTNH,NHD->BTD", attended, weights.o_proj[...]))
    return out + weights.o_bias[...].astype(x.dtype)[None, None] if has_bias else out


def forward(
    model: Qwen3,
    tokens: Int[Array, "rows time"],
    positions: Int[Array, "rows time"],
    segment_ids: Int[Array, "rows time"],
    *,
    compute_dtype: DTypeLike,
    attention: str,
    remat: Literal["none", "layer"],
) -> Float[Array, "rows time embed"]:
    """Returns final-normed hidden states in the compute dtype; multiply with `output_embedding` for logits.

    A position attends to earlier positions of its own segment. `remat` "layer" keeps only each layer's input for the
    backward pass and computes the rest again.
    """
    return forward_shards(
        model,
        tokens,
        positions,
        segment_ids,
        compute_dtype=compute_dtype,
        attention=attention,
        remat=remat,
        gradient_sums=None,
        parallel=ONE_DEVICE,
    )


def forward_shards(
    model: Qwen3,
    tokens: Int[Array, "rows time"],
    positions: Int[Array, "rows time"],
    segment_ids: Int[Array, "rows time"],
    *,
    compute_dtype: DTypeLike,
    attention: str,
    remat: Literal["none", "layer"],
    gradient_sums: Layers | None,
    parallel: Parallel,
) -> Float[Array, "rows time embed"]:
    """`forward` on one device of a mesh: its shards of the model, its rows; `parallel` fetches the rest.

    The gradient of `model.layers` is that of this call plus `gradient_sums`, into which it is added in place (None:
    zeros).
    """
    a = model.architecture
    cos, sin = cos_sin(positions, head_dim=a.head_dim, theta=a.rope_theta, scaling=a.rope_scaling)
    context = _Context(cos, sin, segment_ids)
    x = parallel.embed(model.embed_tokens[...], tokens, compute_dtype)

    def layer(x: Array, shards: Layers, context: _Context) -> Array:
        weights = parallel.all_gather(shards, compute_dtype)
        normed = rms_norm(x, weights.attention_norm[...], eps=a.rms_norm_eps)
        x = x + _attention_block(
            weights.attention, normed, context, attention=attention, eps=a.rms_norm_eps, parallel=parallel
        )
        normed = parallel.copy_to_tensor(rms_norm(x, weights.mlp_norm[...], eps=a.rms_norm_eps))
        matrices = weights.mlp.gate_proj[...], weights.mlp.up_proj[...], weights.mlp.down_proj[...]
        mlp = (
            swiglu(normed, *matrices)
            if remat == "none"
            else swiglu_in_chunks(normed, *matrices, chunk_tokens=MLP_CHUNK_TOKENS)
        )
        return x + parallel.all_reduce(mlp)

    if remat == "layer":
        sums = jax.tree.map(jnp.zeros_like, model.layers) if gradient_sums is None else gradient_sums
        x = scan_layers(layer, x, model.layers, sums, context)
    else:
        layers = model.layers if gradient_sums is None else add_to_gradient(model.layers, gradient_sums)
        x, _ = jax.lax.scan(lambda x, weights: (layer(x, weights, context), None), x, layers)
    return rms_norm(x, model.norm[...], eps=a.rms_norm_eps)


def output_embedding(model: Qwen3) -> Float[Array, "vocab embed"]:
    """Returns the matrix that turns hidden states into logits: the input embedding where the two are tied."""
    return (model.embed_tokens if model.architecture.tie_word_embeddings else model.lm_head)[...]


def logits(
    hidden: Float[Array, "*shape embed"], output_embedding: Float[Array, "vocab embed"]
) -> Float[Array, "*shape vocab"]:
    """Returns float32 logits; the product itself is taken in the dtype of `hidden`, accumulated in float32."""
    return jnp.einsum(
        "...D,VD->...V", hidden, output_embedding.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
