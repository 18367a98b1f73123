"""Token logprobs and entropy straight from hidden states and the output embedding, without logits, as GPU kernels.

In: hidden states, output embedding, target ids. Out: float32 logprobs and entropy, and gradients of the logprobs.
Forward: one kernel walks the vocabulary in tiles that live in registers, with an online softmax. Backward: for one
chunk of the vocabulary at a time a kernel computes the logits again and writes their gradient (tokens x chunk, compute
dtype); two plain products, accumulated in float32, take it to the hidden states and the embedding. Hsu et al., "Liger
Kernel" (https://arxiv.org/abs/2410.10989), and Wijmans et al., "Cut Your Losses" (https://arxiv.org/abs/2411.09009),
describe the idea. The pieces (`logit_statistics`, `merged`, `finished`, `logit_gradients`, `products`) also work on
chunks of an embedding that never exists as a whole: give targets relative to the chunk's first row.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Float32, Int

_MASKED = -1e30
_PROGRAMS = 1024
"""Programs to launch at least, if there is enough to do: several for every multiprocessor of a GPU."""


class LogitStatistics(NamedTuple):
    """What part of a vocabulary adds to a softmax: all of it float32, logits divided by the temperature."""

    highest: Float32[Array, "*parts tokens"]
    total: Float32[Array, "*parts tokens"]
    """sum of exp(logit - highest)."""
    weighted: Float32[Array, "*parts tokens"]
    """sum of exp(logit - highest) (logit - highest)."""
    target_logit: Float32[Array, "*parts tokens"]
    """0 where the target is not in this part."""


class _Tiles(NamedTuple):
    tokens: int
    vocab: int
    embed: int
    warps: int
    stages: int


def _tiles_for(dtype: Any, *, interpret: bool) -> _Tiles:
    if interpret:
        return _Tiles(16, 32, 32, 1, 1)
    # float32 products are exact (no TF32) and run on the plain cores; small tiles, since they live in registers.
    return _Tiles(32, 32, 32, 4, 2) if jnp.dtype(dtype).itemsize > 2 else _Tiles(128, 128, 64, 8, 4)


def linear_logprobs(
    hidden: Float[Array, "tokens embed"],
    weight: Float[Array, "vocab embed"],
    targets: Int[Array, " tokens"],
    *,
    temperature: float,
    chunk_vocab: int,
    interpret: bool,
) -> tuple[Float32[Array, " tokens"], Float32[Array, " tokens"]]:
    """log softmax(hidden W^T / temperature) at `targets`, and that distribution's entropy, both in nats.

    Products take hidden's dtype and accumulate in float32. The entropy carries no gradient. The backward pass holds
    tokens x chunk_vocab of hidden's dtype; weight's gradient is summed in float32 and leaves in weight's dtype.
    """
    return _linear_logprobs(temperature, chunk_vocab, interpret, hidden, weight, targets)


def linear_logprobs_reference(
    hidden: Float[Array, "tokens embed"],
    weight: Float[Array, "vocab embed"],
    targets: Int[Array, " tokens"],
    *,
    temperature: float,
    chunk_vocab: int,
    interpret: bool,
) -> tuple[Float32[Array, " tokens"], Float32[Array, " tokens"]]:
    """The same function in plain jax.numpy: all logits at once. The last two arguments change nothing here."""
    del chunk_vocab, interpret
    logits = jnp.einsum("td,vd->tv", hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)
    log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
    logprobs = jnp.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]
    constant = lax.stop_gradient(log_p)
    return logprobs, -jnp.sum(jnp.exp(constant) * constant, axis=-1)


def logit_statistics(
    hidden: Float[Array, "tokens embed"],
    weight: Float[Array, "vocab embed"],
    targets: Int[Array, " tokens"],
    *,
    temperature: float,
    interpret: bool,
) -> LogitStatistics:
    """What the rows of `weight` add to each token's softmax: [tokens] each. Targets outside these rows are absent."""
    tokens, embed = hidden.shape
    vocab, tiles = weight.shape[0], _tiles_for(hidden.dtype, interpret=interpret)
    hidden, targets = _filled(hidden, tiles.tokens), _filled(targets.astype(jnp.int32), tiles.tokens)
    token_blocks, vocab_blocks = hidden.shape[0] // tiles.tokens, pl.cdiv(vocab, tiles.vocab)
    blocks_a_part = pl.cdiv(vocab_blocks, min(vocab_blocks, pl.cdiv(_PROGRAMS, token_blocks)))
    parts = pl.cdiv(vocab_blocks, blocks_a_part)
    of_tokens = pl.BlockSpec((None, tiles.tokens), lambda t, p: (p, t))
    statistics = pl.pallas_call(
        partial(_statistics_kernel, tiles=tiles, blocks_a_part=blocks_a_part, scale=1.0 / temperature),
        # Token blocks change fastest: programs that run together read the same rows of the weight.
        grid=(token_blocks, parts),
        in_specs=[
            pl.BlockSpec((tiles.tokens, embed), lambda t, p: (t, 0)),
            pl.BlockSpec((vocab, embed), lambda t, p: (0, 0)),
            pl.BlockSpec((tiles.tokens,), lambda t, p: (t,)),
        ],
        out_specs=[of_tokens] * 4,
        out_shape=[jax.ShapeDtypeStruct((parts, hidden.shape[0]), jnp.float32)] * 4,
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="linear_logprobs_statistics",
    )(hidden, weight, targets)
    return merged(LogitStatistics(*(array[:, :tokens] for array in statistics)))


def merged(parts: LogitStatistics) -> LogitStatistics:
    """The statistics of several parts together: [parts, tokens] -> [tokens]."""
    highest = jnp.max(parts.highest, axis=0)
    lower = parts.highest - highest[None]
    share = jnp.exp(lower)
    return LogitStatistics(
        highest=highest,
        total=jnp.sum(share * parts.total, axis=0),
        weighted=jnp.sum(share * (parts.weighted + parts.total * lower), axis=0),
        target_logit=jnp.sum(parts.target_logit, axis=0),
    )


def finished(
    statistics: LogitStatistics,
) -> tuple[Float32[Array, " tokens"], Float32[Array, " tokens"], Float32[Array, " tokens"]]:
    """Logprobs, entropy and normalizers (logsumexp) of a whole vocabulary's statistics."""
    log_total = jnp.log(statistics.total)
    normalizers = statistics.highest + log_total
    return statistics.target_logit - normalizers, log_total - statistics.weighted / statistics.total, normalizers


def logit_gradients(
    hidden: Float[Array, "tokens embed"],
    weight: Float[Array, "vocab embed"],
    targets: Int[Array, " tokens"],
    normalizers: Float32[Array, " tokens"],
    d_logprobs: Float32[Array, " tokens"],
    *,
    temperature: float,
    interpret: bool,
) -> Float[Array, "tokens vocab"]:
    """d loss / d (hidden W^T) for the rows of `weight`, in hidden's dtype: d_logprob (1[target] - p) / temperature."""
    tokens, embed = hidden.shape
    vocab, tiles = weight.shape[0], _tiles_for(hidden.dtype, interpret=interpret)
    inputs = [_filled(array, tiles.tokens) for array in (hidden, targets.astype(jnp.int32), normalizers, d_logprobs)]
    filled = inputs[0].shape[0]
    of_tokens = pl.BlockSpec((tiles.tokens,), lambda t, v: (t,))
    gradients = pl.pallas_call(
        partial(_gradients_kernel, tiles=tiles, scale=1.0 / temperature),
        grid=(filled // tiles.tokens, pl.cdiv(vocab, tiles.vocab)),
        in_specs=[
            pl.BlockSpec((tiles.tokens, embed), lambda t, v: (t, 0)),
            pl.BlockSpec((vocab, embed), lambda t, v: (0, 0)),
            of_tokens, of_tokens, of_tokens,
        ],
        out_specs=pl.BlockSpec((tiles.tokens, vocab), lambda t, v: (t, 0)),
        out_shape=jax.ShapeDtypeStruct((filled, vocab), hidden.dtype),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="linear_logprobs_gradients",
    )(inputs[0], weight, *inputs[1:])  # fmt: skip
    return gradients[:tokens]


def products(
    d_logits: Float[Array, "tokens vocab"], hidden: Float[Array, "tokens embed"], weight: Float[Array, "vocab embed"]
) -> tuple[Float32[Array, "tokens embed"], Float32[Array, "vocab embed"]]:
    """What one chunk adds to hidden's gradient, and the gradient of its rows of the weight; both float32."""
    d_hidden = jnp.einsum("tv,vd->td", d_logits, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return d_hidden, jnp.einsum("tv,td->vd", d_logits, hidden, preferred_element_type=jnp.float32)


def _filled(array: Array, multiple: int) -> Array:
    more = -array.shape[0] % multiple
    return jnp.pad(array, ((0, more),) + ((0, 0),) * (array.ndim - 1)) if more else array


def _tile(ref: Any, rows: Array | int, columns: Array | int, shape: tuple[int, int]) -> Array:
    """A tile of `ref`, zero beyond its end."""
    view = ref.at[pl.ds(rows, shape[0]), pl.ds(columns, shape[1])]
    inside = None
    for axis, start in enumerate((rows, columns)):
        if ref.shape[axis] % shape[axis]:
            within = start + lax.broadcasted_iota(jnp.int32, shape, axis) < ref.shape[axis]
            inside = within if inside is None else inside & within
    return plgpu.load(view) if inside is None else plgpu.load(view, mask=inside, other=0.0)


def _logits(hidden_ref: Any, weight_ref: Any, block: Array, *, tiles: _Tiles, scale: float) -> tuple[Array, Array]:
    """One tile of logits (masked beyond the vocabulary's end) and the vocabulary ids of its columns."""

    def body(step: Array, logits: Array) -> Array:
        hidden = _tile(hidden_ref, 0, step * tiles.embed, (tiles.tokens, tiles.embed))
        weight = _tile(weight_ref, block * tiles.vocab, step * tiles.embed, (tiles.vocab, tiles.embed))
        precision = lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None
        return logits + plgpu.dot(hidden, weight.astype(hidden.dtype), trans_b=True, precision=precision)

    shape = (tiles.tokens, tiles.vocab)
    steps = pl.cdiv(weight_ref.shape[1], tiles.embed)
    logits = lax.fori_loop(0, steps, body, jnp.zeros(shape, jnp.float32)) * scale
    ids = block * tiles.vocab + lax.broadcasted_iota(jnp.int32, shape, 1)
    if weight_ref.shape[0] % tiles.vocab:
        logits = jnp.where(ids < weight_ref.shape[0], logits, _MASKED)
    return logits, ids


def _statistics_kernel(
    hidden_ref: Any, weight_ref: Any, targets_ref: Any, highest_ref: Any, total_ref: Any, weighted_ref: Any,
    target_logit_ref: Any, *, tiles: _Tiles, blocks_a_part: int, scale: float,
) -> None:  # fmt: skip
    """One block of tokens over one part of the vocabulary: online softmax."""
    targets = targets_ref[...]

    def body(block: Array, so_far: tuple[Array, ...]) -> tuple[Array, ...]:
        highest, total, weighted, target_logit = so_far
        logits, ids = _logits(hidden_ref, weight_ref, block, tiles=tiles, scale=scale)
        new_highest = jnp.maximum(highest, jnp.max(logits, axis=1))
        lower = logits - new_highest[:, None]
        exps = jnp.exp(lower)
        fell = highest - new_highest
        share = jnp.exp(fell)
        # A target may stand past the end of this part, under a masked logit: that one is not to be taken.
        here = (ids == targets[:, None]) & (ids < weight_ref.shape[0])
        target_logit += jnp.sum(jnp.where(here, logits, 0.0), axis=1)
        # Weighted by the distance from the maximum, not by the logit: small numbers, and no cancelling later.
        weighted = share * (weighted + total * fell) + jnp.sum(exps * lower, axis=1)
        return new_highest, share * total + jnp.sum(exps, axis=1), weighted, target_logit

    zeros = jnp.zeros((tiles.tokens,), jnp.float32)
    first = pl.program_id(1) * blocks_a_part
    last = jnp.minimum(first + blocks_a_part, pl.cdiv(weight_ref.shape[0], tiles.vocab))
    statistics = lax.fori_loop(first, last, body, (jnp.full_like(zeros, _MASKED), zeros, zeros, zeros))
    for ref, value in zip((highest_ref, total_ref, weighted_ref, target_logit_ref), statistics, strict=True):
        ref[...] = value


def _gradients_kernel(
    hidden_ref: Any, weight_ref: Any, targets_ref: Any, normalizers_ref: Any, d_logprobs_ref: Any, out_ref: Any, *,
    tiles: _Tiles, scale: float,
) -> None:  # fmt: skip
    """One tile of the logits' gradient."""
    block = pl.program_id(1)
    logits, ids = _logits(hidden_ref, weight_ref, block, tiles=tiles, scale=scale)
    right = jnp.where(ids == targets_ref[...][:, None], 1.0, 0.0)
    probability = jnp.exp(logits - normalizers_ref[...][:, None])
    gradient = ((right - probability) * (d_logprobs_ref[...] * scale)[:, None]).astype(out_ref.dtype)
    view = out_ref.at[:, pl.ds(block * tiles.vocab, tiles.vocab)]
    if weight_ref.shape[0] % tiles.vocab:
        plgpu.store(view, gradient, mask=ids < weight_ref.shape[0])
    else:
        plgpu.store(view, gradient)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _linear_logprobs(
    temperature: float, chunk_vocab: int, interpret: bool, hidden: Array, weight: Array, targets: Array
) -> tuple[Array, Array]:
    return _forward(temperature, chunk_vocab, interpret, hidden, weight, targets)[0]


def _forward(
    temperature: float, chunk_vocab: int, interpret: bool, hidden: Array, weight: Array, targets: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    del chunk_vocab
    statistics = logit_statistics(hidden, weight, targets, temperature=temperature, interpret=interpret)
    logprobs, entropy, normalizers = finished(statistics)
    return (logprobs, entropy), (hidden, weight, targets, normalizers)


def _backward(
    temperature: float, chunk_vocab: int, interpret: bool, saved: tuple[Array, ...], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    hidden, weight, targets, normalizers = saved
    d_logprobs, _ = cotangents
    vocab = weight.shape[0]
    chunk_vocab = min(chunk_vocab, vocab)

    def add_chunk(first: Array | int, size: int, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        d_hidden, d_weight = sums
        rows = lax.dynamic_slice_in_dim(weight, first, size)
        d_logits = logit_gradients(
            hidden, rows, targets - first, normalizers, d_logprobs, temperature=temperature, interpret=interpret
        )
        more, d_rows = products(d_logits, hidden, rows)
        d_weight = lax.dynamic_update_slice_in_dim(d_weight, d_rows.astype(d_weight.dtype), first, axis=0)
        return d_hidden + more, d_weight

    sums = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(weight))
    whole, rest = divmod(vocab, chunk_vocab)
    sums = lax.fori_loop(0, whole, lambda n, sums: add_chunk(n * chunk_vocab, chunk_vocab, sums), sums)
    if rest:
        sums = add_chunk(whole * chunk_vocab, rest, sums)
    return sums[0].astype(hidden.dtype), sums[1], None


_linear_logprobs.defvjp(_forward, _backward)
