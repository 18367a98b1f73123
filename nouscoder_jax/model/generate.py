"""Sampling with a KV cache: pure functions over slots that decode side by side.

In: weights, prompts, and per slot its last token, length, seed and sampling numbers. Out: sampled ids with the logprob
under the distribution really sampled and under the policy at temperature 1.

A slot's cache holds every token of its sequence but the last; `decode` reads the last token, writes its keys and values
and samples the next. So a prompt's prefix (all but its last token) is computed once by `prefill` and copied by
`copy_prefix` into the slots of its group, and no logits of a prompt are ever computed.

Layout: keys "slots kv_heads head_dim time", values "slots kv_heads time head_dim", one array a layer; the two
products of a decoding step then run along the minor dimension on a CPU (measured: 8.4 ms of CPU time a step of 64
slots against 11.9 with both time-minor and 10.3 with both head_dim-minor). Layers are unrolled, and the projections of
q, k, v and of gate, up are fused.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Float32, Int, Int32

from nouscoder_jax.model import attention
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import Qwen3, logits, output_embedding, rms_norm
from nouscoder_jax.model.rope import cos_sin, rotate


class LayerWeights(NamedTuple):
    """One layer's weights as decoding wants them; biases are zero-sized where the architecture has none."""

    attention_norm: Float[Array, " embed"]
    qkv: Float[Array, "embed qkv"]
    qkv_bias: Float[Array, " qkv_bias"]
    q_norm: Float[Array, " head_dim"]
    k_norm: Float[Array, " head_dim"]
    o: Float[Array, "heads_dim embed"]
    o_bias: Float[Array, " o_bias"]
    mlp_norm: Float[Array, " embed"]
    gate_up: Float[Array, "embed two_mlp"]
    down: Float[Array, "mlp embed"]


class Weights(NamedTuple):
    """A model's weights as decoding wants them: unstacked, fused, in the compute dtype."""

    embed_tokens: Float[Array, "vocab embed"]
    layers: tuple[LayerWeights, ...]
    norm: Float[Array, " embed"]
    output_embedding: Float[Array, "vocab embed"]


class Cache(NamedTuple):
    """Keys and values of every slot, one array a layer. Positions at and past a slot's length hold anything."""

    keys: tuple[Float[Array, "slots kv_heads head_dim time"], ...]
    values: tuple[Float[Array, "slots kv_heads time head_dim"], ...]


class Slots(NamedTuple):
    """What decoding needs to know of each slot; NumPy on the host, tracers in `decode`.

    Example:
        a slot that continues the prompt (5, 9, 7) for up to 20 tokens: tokens 7, lengths 2, counts 0, limits 20, active
    """

    tokens: Int32[Any, " slots"]
    """Last token of the sequence, not in the cache yet."""
    lengths: Int32[Any, " slots"]
    """Tokens in the cache."""
    counts: Int32[Any, " slots"]
    """Completion tokens sampled so far; the index of the next one's random key."""
    limits: Int32[Any, " slots"]
    """Completion tokens to sample at most."""
    seeds: Int32[Any, " slots"]
    temperatures: Float32[Any, " slots"]
    top_ps: Float32[Any, " slots"]
    """1: all tokens."""
    top_ks: Int32[Any, " slots"]
    """0: all tokens."""
    active: Bool[Any, " slots"]


class Sampled(NamedTuple):
    """What a chunk of decoding produced; entries at and past a slot's `counts` are meaningless."""

    ids: Int32[Any, "slots steps"]
    behavior_logprobs: Float32[Any, "slots steps"]
    """Of the distribution really sampled: after temperature, top-k, top-p."""
    logprobs: Float32[Any, "slots steps"]
    """Of the policy at temperature 1 without truncation."""
    counts: Int32[Any, " slots"]
    """Tokens of this chunk."""
    active: Bool[Any, " slots"]
    """False: the slot met an end token or its limit, or was not active."""


def prepare(model: Qwen3, *, compute_dtype: DTypeLike) -> Weights:
    """Returns the weights of `model` laid out for decoding. Run it under jit, once per policy version."""
    a = model.architecture
    attn, mlp = model.layers.attention, model.layers.mlp

    def flat(name: str, layer: int, dims: tuple[int, ...]) -> Array:
        return getattr(attn, name)[...][layer].reshape(dims)

    def fused(suffix: str, layer: int, dims: tuple[int, ...]) -> Array:
        return jnp.concatenate([flat(f"{part}_{suffix}", layer, dims) for part in "qkv"], axis=-1)

    layers = [
        LayerWeights(
            attention_norm=model.layers.attention_norm[...][i],
            qkv=fused("proj", i, (a.hidden_size, -1)).astype(compute_dtype),
            qkv_bias=fused("bias", i, (-1,)).astype(compute_dtype) if a.attention_bias else jnp.zeros(0, compute_dtype),
            q_norm=attn.q_norm[...][i],
            k_norm=attn.k_norm[...][i],
            o=flat("o_proj", i, (-1, a.hidden_size)).astype(compute_dtype),
            o_bias=flat("o_bias", i, (-1,)).astype(compute_dtype) if a.attention_bias else jnp.zeros(0, compute_dtype),
            mlp_norm=model.layers.mlp_norm[...][i],
            gate_up=jnp.concatenate([mlp.gate_proj[...][i], mlp.up_proj[...][i]], -1).astype(compute_dtype),
            down=mlp.down_proj[...][i].astype(compute_dtype),
        )
        for i in range(a.num_layers)
    ]
    return Weights(
        model.embed_tokens[...].astype(compute_dtype),
        tuple(layers),
        model.norm[...],
        output_embedding(model).astype(compute_dtype),
    )


def init_cache(architecture: Architecture, *, num_slots: int, time: int, dtype: DTypeLike) -> Cache:
    """Returns a cache of zeros for `num_slots` sequences of up to `time` cached tokens."""
    a = architecture
    return Cache(
        tuple(jnp.zeros((num_slots, a.num_kv_heads, a.head_dim, time), dtype) for _ in range(a.num_layers)),
        tuple(jnp.zeros((num_slots, a.num_kv_heads, time, a.head_dim), dtype) for _ in range(a.num_layers)),
    )


def resize(cache: Cache, *, time: int) -> Cache:
    """Returns the cache with room for `time` tokens; what lies past it is cut off."""

    def one(array: Array, dim: int) -> Array:
        kept = jax.lax.slice_in_dim(array, 0, min(time, array.shape[dim]), axis=dim)
        widths = [(0, 0)] * array.ndim
        widths[dim] = (0, time - kept.shape[dim])
        return jnp.pad(kept, widths)

    return Cache(tuple(one(k, 3) for k in cache.keys), tuple(one(v, 2) for v in cache.values))


def _qkv(
    weights: LayerWeights, x: Float[Array, "*shape embed"], cos: Array, sin: Array, *, architecture: Architecture
) -> tuple[Array, Array, Array]:
    """Returns rotated queries, rotated keys and values, each "*shape heads head_dim"."""
    a = architecture
    fused = rms_norm(x, weights.attention_norm, eps=a.rms_norm_eps) @ weights.qkv
    if a.attention_bias:
        fused = fused + weights.qkv_bias.reshape((1,) * (x.ndim - 1) + (-1,))
    heads = fused.reshape(*x.shape[:-1], a.num_heads + 2 * a.num_kv_heads, a.head_dim)
    q, k, v = jnp.split(heads, [a.num_heads, a.num_heads + a.num_kv_heads], axis=-2)
    q = rotate(rms_norm(q, weights.q_norm, eps=a.rms_norm_eps), cos, sin)
    return q, rotate(rms_norm(k, weights.k_norm, eps=a.rms_norm_eps), cos, sin), v


def _rest_of_layer(
    weights: LayerWeights, x: Float[Array, "*shape embed"], attended: Array, *, architecture: Architecture
) -> Float[Array, "*shape embed"]:
    """Returns the residual stream after a layer whose attention gave `attended` "*shape heads head_dim"."""
    a = architecture
    out = attended.reshape(*x.shape[:-1], -1) @ weights.o
    if a.attention_bias:
        out = out + weights.o_bias.reshape((1,) * (x.ndim - 1) + (-1,))
    x = x + out
    gate, up = jnp.split(rms_norm(x, weights.mlp_norm, eps=a.rms_norm_eps) @ weights.gate_up, 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ weights.down


def prefill(
    weights: Weights,
    cache: Cache,
    tokens: Int32[Array, "prompts time"],
    slots: Int32[Array, " prompts"],
    *,
    architecture: Architecture,
) -> Cache:
    """Returns the cache with the keys and values of `tokens` written to the start of `slots`.

    Prompts are padded on the right: a later position never reaches an earlier one, and what lies past a slot's length
    is never read. A slot number outside the cache writes nothing, so the number of prompts can be padded too.
    """
    a = architecture
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    cos, sin = cos_sin(positions, head_dim=a.head_dim, theta=a.rope_theta, scaling=a.rope_scaling)
    x = weights.embed_tokens[tokens]
    keys, values = [], []
    for layer, layer_keys, layer_values in zip(weights.layers, cache.keys, cache.values, strict=True):
        q, k, v = _qkv(layer, x, cos, sin, architecture=a)
        keys.append(layer_keys.at[slots, :, :, : tokens.shape[1]].set(k.transpose(0, 2, 3, 1), mode="drop"))
        values.append(layer_values.at[slots, :, : tokens.shape[1]].set(v.transpose(0, 2, 1, 3), mode="drop"))
        attended = attention.reference(q, k, v, jnp.ones_like(tokens))
        x = _rest_of_layer(layer, x, attended, architecture=a)
    return Cache(tuple(keys), tuple(values))


def copy_prefix(
    cache: Cache, sources: Int32[Array, " copies"], targets: Int32[Array, " copies"], num_copies: Int[Array, ""]
) -> Cache:
    """Returns the cache with slot `sources[i]` copied over slot `targets[i]` for i < num_copies, in order."""

    def copy(i: Array, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            jax.lax.dynamic_update_index_in_dim(a, jax.lax.dynamic_index_in_dim(a, sources[i]), targets[i], 0)
            for a in arrays
        )

    num_layers = len(cache.keys)
    arrays = jax.lax.fori_loop(0, num_copies, copy, cache.keys + cache.values)
    return Cache(arrays[:num_layers], arrays[num_layers:])


def _attend_cached(
    q: Float[Array, "slots heads head_dim"], keys: Array, values: Array, lengths: Int32[Array, " slots"]
) -> Float[Array, "slots heads head_dim"]:
    """Returns attention of one new token a slot over its cache, the token itself included at index `lengths`."""
    num_slots, num_heads, head_dim = q.shape
    num_kv_heads = keys.shape[1]
    grouped = (q * head_dim**-0.5).reshape(num_slots, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = jnp.einsum("BKGH,BKHS->BKGS", grouped, keys, preferred_element_type=jnp.float32)
    seen = jnp.arange(keys.shape[3])[None, :] <= lengths[:, None]
    scores = jnp.where(seen[:, None, None], scores, -1e30)
    exps = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    total = jnp.sum(exps, -1, keepdims=True)
    attended = jnp.einsum("BKGS,BKSH->BKGH", exps.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return (attended / total).astype(q.dtype).reshape(q.shape)


def _step(
    weights: Weights,
    cache: Cache,
    tokens: Int32[Array, " slots"],
    lengths: Int32[Array, " slots"],
    *,
    architecture: Architecture,
) -> tuple[Cache, Float32[Array, "slots vocab"]]:
    """Returns the cache with `tokens` written at `lengths`, and the logits of what follows them."""
    a = architecture
    cos, sin = cos_sin(lengths, head_dim=a.head_dim, theta=a.rope_theta, scaling=a.rope_scaling)
    x = weights.embed_tokens[tokens]
    slots = jnp.arange(tokens.shape[0])
    keys, values = list(cache.keys), list(cache.values)
    for i, layer in enumerate(weights.layers):
        q, k, v = _qkv(layer, x, cos, sin, architecture=a)
        keys[i] = keys[i].at[slots, :, :, lengths].set(k, mode="drop")
        values[i] = values[i].at[slots, :, lengths].set(v, mode="drop")
        x = _rest_of_layer(layer, x, _attend_cached(q, keys[i], values[i], lengths), architecture=a)
    hidden = rms_norm(x, weights.norm, eps=a.rms_norm_eps)
    return Cache(tuple(keys), tuple(values)), logits(hidden, weights.output_embedding)


def truncate(
    logits: Float32[Array, "slots vocab"], top_ps: Float32[Array, " slots"], top_ks: Int32[Array, " slots"]
) -> Float32[Array, "slots vocab"]:
    """Returns the logits with -inf outside the top k and then, of the renormalised rest, outside the nucleus.

    The nucleus is the smallest set of most probable tokens whose probability reaches top_p (arXiv:1904.09751). Tokens
    that tie with the least probable kept one are kept.
    """
    vocab = logits.shape[1]
    descending = -jnp.sort(-logits, axis=-1)
    keep_k = jnp.where(top_ks > 0, jnp.minimum(top_ks, vocab), vocab)
    kept = jnp.where(jnp.arange(vocab)[None, :] < keep_k[:, None], descending, -jnp.inf)
    probabilities = jax.nn.softmax(kept, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    in_nucleus = (before < top_ps[:, None]) | (top_ps[:, None] >= 1)
    border = jnp.min(jnp.where(in_nucleus & jnp.isfinite(kept), kept, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= border, logits, -jnp.inf)


def sample(
    logits: Float32[Array, "slots vocab"], slots: Slots
) -> tuple[Int32[Array, " slots"], Float32[Array, " slots"], Float32[Array, " slots"]]:
    """Returns ids, their logprobs under the distribution sampled, and under softmax(logits).

    Gumbel-max with the key fold_in(seed, index of the token): a draw depends on the slot's own logits and seed only.
    """
    vocab = logits.shape[1]
    restricted = jnp.any((slots.top_ps < 1) | (slots.top_ks > 0))
    scaled = logits / slots.temperatures[:, None]
    kept = jax.lax.cond(restricted, truncate, lambda logits, *_: logits, scaled, slots.top_ps, slots.top_ks)
    keys = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(slots.seeds, slots.counts)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (vocab,), jnp.float32))(keys)
    ids = jnp.argmax(kept + noise, axis=-1).astype(jnp.int32)

    def logprob(logits: Array) -> Array:
        return jnp.take_along_axis(logits, ids[:, None], 1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)

    behavior = logprob(kept)
    same = ~restricted & jnp.all(slots.temperatures == 1)
    return ids, behavior, jax.lax.cond(same, lambda: behavior, lambda: logprob(logits))


def decode(
    weights: Weights,
    cache: Cache,
    slots: Slots,
    *,
    num_steps: int,
    eos_ids: tuple[int, ...],
    architecture: Architecture,
) -> tuple[Cache, Sampled]:
    """Returns the cache and what up to `num_steps` steps sampled; stops early when no slot is active.

    A slot stops after an end token, which is part of its completion, or at its limit. Inactive slots compute along and
    write at their length, where nothing reads; nowhere when that lies past the cache.
    """
    num_slots = slots.tokens.shape[0]
    ends = jnp.asarray(eos_ids, jnp.int32)

    def goes_on(carry: tuple[Array, Cache, Slots, Sampled]) -> Array:
        step, _, slots, _ = carry
        return (step < num_steps) & jnp.any(slots.active)

    def body(carry: tuple[Array, Cache, Slots, Sampled]) -> tuple[Array, Cache, Slots, Sampled]:
        step, cache, slots, out = carry
        cache, step_logits = _step(weights, cache, slots.tokens, slots.lengths, architecture=architecture)
        ids, behavior, logprobs = sample(step_logits, slots)
        grown = slots.active.astype(jnp.int32)
        counts = slots.counts + grown
        ended = jnp.any(ids[:, None] == ends[None, :], axis=1) | (counts >= slots.limits)
        active = slots.active & ~ended
        put = partial(jax.lax.dynamic_update_index_in_dim, index=step, axis=1)
        out = Sampled(
            put(out.ids, ids),
            put(out.behavior_logprobs, behavior),
            put(out.logprobs, logprobs),
            out.counts + grown,
            active,
        )
        tokens = jnp.where(slots.active, ids, slots.tokens)
        slots = slots._replace(tokens=tokens, lengths=slots.lengths + grown, counts=counts, active=active)
        return step + 1, cache, slots, out

    zeros = jnp.zeros((num_slots, num_steps), jnp.float32)
    out = Sampled(zeros.astype(jnp.int32), zeros, zeros, jnp.zeros(num_slots, jnp.int32), slots.active)
    _, cache, _, out = jax.lax.while_loop(goes_on, body, (jnp.int32(0), cache, slots, out))
    return cache, out
