"""Logprobs of given tokens and the entropy of their distribution, without all logits at once.

In: final-normed hidden states, the output embedding (or this device's shard of it), target ids. Out: float32 logprobs
and entropy of every position.

The vocabulary is walked in chunks, forward and backward, so that rows x time x vocab never exists: a chunk's logits go
into running sums (online softmax), and the backward pass computes them again, makes their gradient, and writes the
chunk's part of the weight gradient in place. Where many of the logits fit into what may exist at once, those are kept
from the forward to the backward pass; where all fit, nothing is computed twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# As in losses.py: shapes are checked in tests, and this module asks for no package but jax.
if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Float32, Int

_FLOATS_PER_MIB = 2**18
_TILE_ROWS = 128
"""Chunks are a multiple of this, so that tensor cores see full tiles."""
_WORTH_KEEPING = 4
"""Logits are kept for the backward pass where at least one in this many fits; fewer save less time than they cost."""
_BELOW_ALL = -1e30
"""Where the running maximum starts: finite even after a division by the temperature, since 0 x infinity is NaN."""


class VocabShards(NamedTuple):
    """How the output embedding lies over the devices of a `shard_map`: what a device needs from the others.

    Vocabulary rows may be split over one axis (`tensor`), the embed dim over another (`fsdp`).
    """

    gather: Callable[[Array, Any], Array]
    """(rows of this device's shard "vocab_rows embed_shard", dtype) -> the same rows "vocab_rows embed" in that dtype;
    cast first, so that the narrow type travels."""
    scatter: Callable[[Array], Array]
    """float32 gradient "vocab_rows embed" -> "vocab_rows embed_shard", summed over `fsdp` in float32."""
    first_row: Callable[[int], Array]
    """Number of vocabulary rows of this device -> index of its first one, int32 scalar."""
    all_max: Callable[[Array], Array]
    """Elementwise maximum over `tensor`."""
    all_sum: Callable[[Array], Array]
    """Elementwise sum over `tensor`."""


WHOLE = VocabShards(
    gather=lambda rows, dtype: rows.astype(dtype),
    scatter=lambda grad: grad,
    first_row=lambda num_rows: jnp.int32(0),
    all_max=lambda array: array,
    all_sum=lambda array: array,
)
"""One device holds the whole output embedding."""


class Chunks(NamedTuple):
    """How logits and gradients are cut: `num` chunks of `rows` vocabulary rows, then `tail` more rows (0: none)."""

    rows: int
    num: int
    tail: int
    kept: int
    """The first `kept` chunks keep their logits for the backward pass; `num` means the tail, too."""
    tokens: int
    """The gradient of hidden is added up this many tokens at a time."""


class _Fixed(NamedTuple):
    """What is no array: the same in the forward and the backward pass."""

    temperature: float
    shards: VocabShards
    chunks: Chunks


class _Online(NamedTuple):
    """Running sums over the chunks seen so far, of each token. z are logits before the temperature: a difference of
    two is exact where they are close, and only differences are divided and exponentiated."""

    largest: Float32[Array, " tokens"]
    total: Float32[Array, " tokens"]
    """sum exp((z - largest) / temperature)"""
    moment: Float32[Array, " tokens"]
    """sum exp(c) c with c = (z - largest) / temperature: huge logits cancel nothing."""
    target: Float32[Array, " tokens"]
    """z of the target; 0 while it has not been seen."""


def token_logprobs(
    hidden: Float[Array, "rows time embed"],
    output_embedding: Float[Array, "vocab_rows embed_shard"],
    targets: Int[Array, "rows time"],
    *,
    temperature: float,
    logits_mib: int,
    shards: VocabShards,
) -> tuple[Float32[Array, "rows time"], Float32[Array, "rows time"]]:
    """log softmax(hidden W^T / temperature) at `targets`, and that distribution's entropy, both in nats.

    Matrix products take `hidden`'s dtype and accumulate in float32; the softmax is float32, the weight gradient is
    float32 until it is written in the weight's dtype. The entropy carries no gradient. At most `logits_mib` MiB of
    float32 logits exist at once; beside them a chunk of the weight, of its float32 gradient, and the float32 gradient
    of `hidden` (see `plan_chunks`). Inside a `shard_map`, arrays are local: `output_embedding` is the device's shard;
    `hidden`, `targets` and the gradient of `hidden` are the same on all devices of the axis that splits the vocabulary.

    The running maximum and sum are those of Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).
    """
    rows, time, embed = hidden.shape
    chunks = plan_chunks(
        num_tokens=rows * time, vocab_rows=output_embedding.shape[0], embed=embed, logits_mib=logits_mib
    )
    logprobs, entropy = _token_logprobs(
        _Fixed(temperature, shards, chunks),
        hidden.reshape(rows * time, embed),
        output_embedding,
        targets.reshape(rows * time),
    )
    return logprobs.reshape(rows, time), entropy.reshape(rows, time)


def plan_chunks(*, num_tokens: int, vocab_rows: int, embed: int, logits_mib: int) -> Chunks:
    """Chunks of about equal size: logits, a chunk's weight gradient and a product to be added to the gradient of
    hidden take `logits_mib` MiB each at most (but one row at least)."""
    budget = logits_mib * _FLOATS_PER_MIB
    tokens = -(-num_tokens // -(-num_tokens // max(1, budget // embed)))
    most = max(1, budget // max(num_tokens, embed))
    tile = _TILE_ROWS if most >= _TILE_ROWS else 1
    most = most // tile * tile
    even = -(-vocab_rows // -(-vocab_rows // most))
    rows = even if even == vocab_rows else -(-even // tile) * tile
    num, tail = divmod(vocab_rows, rows)
    if num_tokens * vocab_rows <= budget:
        return Chunks(rows, num, tail, num, tokens)
    kept = budget // (num_tokens * rows) - 1  # the chunk that is being computed exists as well
    return Chunks(rows, num, tail, min(kept, num - 1) if kept * _WORTH_KEEPING >= num else 0, tokens)


def _without_gradient(fixed: _Fixed, hidden: Array, weight: Array, targets: Array) -> tuple[Array, Array]:
    return _forward(fixed, hidden, weight, targets, keep=False)[0]


def _token_logprobs_fwd(
    fixed: _Fixed, hidden: Array, weight: Array, targets: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    outputs, *for_backward = _forward(fixed, hidden, weight, targets, keep=True)
    return outputs, (hidden, weight, targets, *for_backward)


def _forward(
    fixed: _Fixed, hidden: Array, weight: Array, targets: Array, *, keep: bool
) -> tuple[tuple[Array, Array], Array, Array, Array, Array]:
    """(logprobs, entropy); of each token the largest z and log(total) of `_Online`; kept logits: stacked, tail."""
    temperature, shards, chunks = fixed
    num_tokens = hidden.shape[0]
    zeros = jnp.zeros(num_tokens, jnp.float32)
    sums = _Online(jnp.full(num_tokens, _BELOW_ALL, jnp.float32), zeros, zeros, zeros)
    local_targets = targets - shards.first_row(weight.shape[0])

    def visit(sums: _Online, first: Array | int, rows: int) -> tuple[_Online, Array]:
        logits = _logits(hidden, _gathered(fixed, weight, first, rows, hidden.dtype))
        return _absorb(sums, logits, local_targets - first, temperature), logits

    def visit_chunk(sums: _Online, index: Array) -> tuple[_Online, Array]:
        return visit(sums, index * chunks.rows, chunks.rows)

    num_kept = chunks.kept if keep else 0
    sums, kept = jax.lax.scan(visit_chunk, sums, jnp.arange(num_kept))
    sums = jax.lax.fori_loop(num_kept, chunks.num, lambda index, sums: visit_chunk(sums, index)[0], sums)
    kept_tail = jnp.zeros((num_tokens, 0), jnp.float32)
    if chunks.tail:
        sums, tail = visit(sums, chunks.num * chunks.rows, chunks.tail)
        kept_tail = tail if num_kept == chunks.num else kept_tail

    largest = shards.all_max(sums.largest)
    shift = (sums.largest - largest) / temperature
    share = jnp.exp(shift)
    total = shards.all_sum(share * sums.total)
    moment = shards.all_sum(share * (sums.moment + shift * sums.total))
    log_total = jnp.log(total)
    logprobs = (shards.all_sum(sums.target) - largest) / temperature - log_total
    return (logprobs, log_total - moment / total), largest, log_total, kept, kept_tail


def _token_logprobs_bwd(
    fixed: _Fixed, residuals: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    """Gradients of hidden and weight: d logits = (onehot - p) cotangent / temperature."""
    hidden, weight, targets, largest, log_total, kept, kept_tail = residuals
    temperature, shards, chunks = fixed
    scale = (cotangents[0] / temperature)[:, None]
    local_targets = targets - shards.first_row(weight.shape[0])

    def visit(grads: tuple[Array, Array], first: Array | int, rows: int, logits: Array | None) -> tuple[Array, Array]:
        d_hidden, d_weight = grads
        weight_rows = _gathered(fixed, weight, first, rows, hidden.dtype)
        if logits is None:
            logits = _logits(hidden, weight_rows)
        is_target = jnp.arange(rows)[None, :] == (local_targets - first)[:, None]
        p = jnp.exp((logits - largest[:, None]) / temperature - log_total[:, None])
        d_logits = ((is_target.astype(jnp.float32) - p) * scale).astype(hidden.dtype)
        d_hidden = _add_product(d_hidden, d_logits, weight_rows, chunks.tokens)
        d_rows = jnp.einsum("tv,td->vd", d_logits, hidden, preferred_element_type=jnp.float32)
        d_rows = shards.scatter(d_rows).astype(weight.dtype)
        return d_hidden, jax.lax.dynamic_update_slice_in_dim(d_weight, d_rows, first, axis=0)

    def visit_chunk(grads: tuple[Array, Array], index: Array, logits: Array | None) -> tuple[Array, Array]:
        return visit(grads, index * chunks.rows, chunks.rows, logits)

    grads = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(weight))
    num_kept = kept.shape[0]
    grads, _ = jax.lax.scan(
        lambda grads, inputs: (visit_chunk(grads, *inputs), None), grads, (jnp.arange(num_kept), kept)
    )
    grads = jax.lax.fori_loop(num_kept, chunks.num, lambda index, grads: visit_chunk(grads, index, None), grads)
    if chunks.tail:
        logits = kept_tail if num_kept == chunks.num else None
        grads = visit(grads, chunks.num * chunks.rows, chunks.tail, logits)
    return shards.all_sum(grads[0]).astype(hidden.dtype), grads[1], None


_token_logprobs = jax.custom_vjp(_without_gradient, nondiff_argnums=(0,))
_token_logprobs.defvjp(_token_logprobs_fwd, _token_logprobs_bwd)


def _add_product(sums: Array, left: Array, right: Array, block: int) -> Array:
    """sums + left @ right, `block` rows at a time: the whole product would be a second array as large as the sums."""

    def add(first: Array | int, rows: int, sums: Array) -> Array:
        part, old = (jax.lax.dynamic_slice_in_dim(array, first, rows) for array in (left, sums))
        new = old + jnp.einsum("tv,vd->td", part, right, preferred_element_type=jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(sums, new, first, axis=0)

    num, rest = divmod(left.shape[0], block)
    sums = jax.lax.fori_loop(0, num, lambda index, sums: add(index * block, block, sums), sums)
    return add(num * block, rest, sums) if rest else sums


def _gathered(fixed: _Fixed, weight: Array, first: Array | int, rows: int, dtype: Any) -> Array:
    """A chunk of vocabulary rows, whole, in the dtype of the products."""
    return fixed.shards.gather(jax.lax.dynamic_slice_in_dim(weight, first, rows, axis=0), dtype)


def _logits(hidden: Array, weight_rows: Array) -> Float32[Array, "tokens vocab_rows"]:
    """Before the temperature."""
    return jnp.einsum("td,vd->tv", hidden, weight_rows, preferred_element_type=jnp.float32)


def _absorb(sums: _Online, logits: Array, targets: Array, temperature: float) -> _Online:
    """The sums with one more chunk of logits; `targets` count from the chunk's first row and may lie outside."""
    rows = logits.shape[1]
    largest = jnp.maximum(sums.largest, jnp.max(logits, axis=1))
    shift = (sums.largest - largest) / temperature
    share = jnp.exp(shift)
    centered = (logits - largest[:, None]) / temperature
    exps = jnp.exp(centered)
    column = jnp.clip(targets, 0, rows - 1)[:, None]
    found = jnp.take_along_axis(logits, column, axis=1, mode="promise_in_bounds")[:, 0]
    return _Online(
        largest=largest,
        total=share * sums.total + jnp.sum(exps, axis=1),
        moment=share * (sums.moment + shift * sums.total) + jnp.sum(exps * centered, axis=1),
        target=sums.target + jnp.where((targets >= 0) & (targets < rows), found, 0.0),
    )
