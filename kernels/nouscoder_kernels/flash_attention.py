"""Flash attention over packed segments: causal, grouped-query, forward and backward, as Pallas GPU kernels.

In: queries, keys, values and segment ids of rows that hold several sequences each. Out: attended values, and gradients
through `jax.custom_vjp`. A query sees the keys of its own segment up to itself; padding is segment 0 and sees only
padding. No array of time x time exists: scores live in one tile at a time, and the backward pass computes them again
from the saved logsumexp. Dao, "FlashAttention-2" (https://arxiv.org/abs/2307.08691), gives the formulas.

Every kernel walks only the blocks that some of its tokens see (`key_walks`, `query_walks`): those before a block's
first segment, after its last one, or after the diagonal are skipped, and blocks that are seen whole are not masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int, Int32

MAX_HEAD_DIM = 128
_MIN_HEAD_DIM = 16
"""What a tensor core takes; smaller heads are filled up with zeros."""
_MASKED = -1e30
_LOG2_E = math.log2(math.e)


class Tiles(NamedTuple):
    """How one kernel is cut: tokens a block, warps a program, stages of the load pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


class Plan(NamedTuple):
    """Tiles of the three kernels, and whether they are interpreted (on any device, slowly) instead of compiled."""

    forward: Tiles
    d_queries: Tiles
    d_keys: Tiles
    interpret: bool

    @property
    def multiple(self) -> int:
        """Tokens that a row is filled up to a multiple of."""
        return max(max(tiles.queries, tiles.keys) for tiles in (self.forward, self.d_queries, self.d_keys))


def plan_for(head_dim: int, dtype: Any, *, interpret: bool) -> Plan:
    """Tiles that fit the 227 KiB of shared memory and the registers of Hopper and Blackwell."""
    if interpret:
        return Plan(Tiles(32, 16, 1, 1), Tiles(32, 16, 1, 1), Tiles(16, 32, 1, 1), True)
    if jnp.dtype(dtype).itemsize > 2:
        # float32 products are exact (no TF32) and run on the plain cores; small tiles, since they live in registers.
        return Plan(Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2), False)
    if head_dim <= 64:
        return Plan(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 3), Tiles(64, 128, 8, 3), False)
    return Plan(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 2), Tiles(64, 128, 8, 2), False)


def flash_attention(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
    *,
    interpret: bool,
) -> Float[Array, "rows time heads head_dim"]:
    """Returns softmax(q k / sqrt(head_dim)) v in queries' dtype; scores, softmax and sums in float32.

    Any segment ids are right; segments that are contiguous are fast. Memory beyond inputs and outputs: two float32 a
    token and head, and a copy of the inputs where time is no multiple of the block (128 tokens at most).
    Raises ValueError where head_dim exceeds 128 or kv_heads does not divide heads.
    """
    time, heads, head_dim = queries.shape[1:]
    kv_heads = keys.shape[2]
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(
            f"flash_attention got head_dim {head_dim}, takes {MAX_HEAD_DIM} at most: use another attention"
        )
    if heads % kv_heads:
        raise ValueError(f"flash_attention got {heads} heads over {kv_heads} kv heads, takes a multiple of kv heads")
    filled_head_dim = max(_MIN_HEAD_DIM, pl.next_power_of_2(head_dim))
    plan = plan_for(filled_head_dim, queries.dtype, interpret=interpret)
    more_time, more_dim = -time % plan.multiple, filled_head_dim - head_dim

    def fill(array: Array) -> Array:
        return jnp.pad(array, ((0, 0), (0, more_time), (0, 0), (0, more_dim))) if more_time or more_dim else array

    segments = jnp.pad(segment_ids.astype(jnp.int32), ((0, 0), (0, more_time)))
    # The scale is that of the true head_dim; zeros add nothing to a score.
    attended: Any = _attention(plan, head_dim**-0.5, fill(queries), fill(keys), fill(values), segments)
    return attended[:, :time, :, :head_dim]


def flash_attention_reference(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
    *,
    interpret: bool,
) -> Float[Array, "rows time heads head_dim"]:
    """The same function in plain jax.numpy: all scores at once, in float32. `interpret` changes nothing here."""
    del interpret
    rows, time, heads, head_dim = queries.shape
    grouped = queries.reshape(rows, time, keys.shape[2], heads // keys.shape[2], head_dim)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, keys, preferred_element_type=jnp.float32) * head_dim**-0.5
    causal = jnp.tril(jnp.ones((time, time), bool))
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & causal[None]
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, _MASKED), axis=-1)
    attended = jnp.einsum("bkgts,bskd->btkgd", weights, values.astype(jnp.float32))
    return attended.reshape(queries.shape).astype(queries.dtype)


def key_walks(
    segment_ids: Int32[Array, "rows time"], *, query_block: int, key_block: int
) -> Int32[Array, "rows query_blocks 4"]:
    """For each query block, the key blocks to walk: first, first seen whole, end of those seen whole, end.

    A key block is seen whole when all its keys are in the segment of all the queries and before them.
    """
    time = segment_ids.shape[1]
    blocks = time // query_block
    position = jnp.arange(time, dtype=jnp.int32)
    first = _blockwise(_extreme_of_segment(segment_ids, last=False), query_block).min(axis=-1) // key_block
    begins = segment_ids[:, 1:] != segment_ids[:, :-1]
    run_start = lax.cummax(jnp.where(jnp.pad(begins, ((0, 0), (1, 0))), position[None], 0), axis=1)
    run_start = _blockwise(run_start, query_block)[:, :, -1]
    start = query_block * jnp.arange(blocks, dtype=jnp.int32)[None]
    end = jnp.broadcast_to(-(-(start + query_block) // key_block), first.shape)
    whole_from = jnp.maximum(first, -(-run_start // key_block))
    # Where the last query's run starts inside the block, whole_from is past this, and none is whole.
    whole_to = jnp.broadcast_to(start // key_block, first.shape)
    return _walk(first, whole_from, whole_to, end)


def query_walks(
    segment_ids: Int32[Array, "rows time"], *, query_block: int, key_block: int
) -> Int32[Array, "rows key_blocks 4"]:
    """For each key block, the query blocks to walk: first, first that sees it whole, end of those, end."""
    time = segment_ids.shape[1]
    blocks = time // key_block
    position = jnp.arange(time, dtype=jnp.int32)
    last = _blockwise(_extreme_of_segment(segment_ids, last=True), key_block).max(axis=-1)
    ends = segment_ids[:, 1:] != segment_ids[:, :-1]
    run_end = jnp.where(jnp.pad(ends, ((0, 0), (0, 1)), constant_values=True), position[None] + 1, time)
    run_end = _blockwise(lax.cummin(run_end, axis=1, reverse=True), key_block)[:, :, 0]
    start = key_block * jnp.arange(blocks, dtype=jnp.int32)[None]
    first = jnp.broadcast_to(start // query_block, last.shape)
    whole_from = jnp.broadcast_to(-(-(start + key_block - 1) // query_block), last.shape)
    # Where the first key's run ends inside the block, this is not past whole_from, and none is whole.
    return _walk(first, whole_from, run_end // query_block, last // query_block + 1)


def _walk(first: Array, whole_from: Array, whole_to: Array, end: Array) -> Array:
    whole_from = jnp.minimum(whole_from, end)
    return jnp.stack([first, whole_from, jnp.clip(whole_to, whole_from, end), end], axis=-1).astype(jnp.int32)


def _blockwise(array: Array, block: int) -> Array:
    return array.reshape(array.shape[0], -1, block)


def _extreme_of_segment(segment_ids: Array, *, last: bool) -> Array:
    """The first (last) position of each token's segment. Ids beyond time share a slot: walks get longer, not wrong."""
    rows, time = segment_ids.shape
    slot = jnp.clip(segment_ids, 0, time)
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    position = jnp.broadcast_to(jnp.arange(time, dtype=jnp.int32)[None], slot.shape)
    table = jnp.full((rows, time + 1), 0 if last else time, jnp.int32).at[row, slot]
    return jnp.take_along_axis(table.max(position) if last else table.min(position), slot, axis=1)


def _dot(left: Array, right: Array, **transposed: bool) -> Array:
    precision = lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return plgpu.dot(left, right, precision=precision, **transposed)


def _for_blocks(walk_ref: Any, body: Callable[..., Any], carry: Any) -> Any:
    """Runs body(block, carry, masked=) over the blocks of a walk."""
    first, whole_from, whole_to, end = (walk_ref[n] for n in range(4))
    carry = lax.fori_loop(first, whole_from, partial(body, masked=True), carry)
    carry = lax.fori_loop(whole_from, whole_to, partial(body, masked=False), carry)
    return lax.fori_loop(whole_to, end, partial(body, masked=True), carry)


def _forward_kernel(
    walk_ref: Any, segments_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, lse_ref: Any, *,
    tiles: Tiles, scale: float, blocks: int,
) -> None:  # fmt: skip
    """One block of queries of one head: online softmax over its keys."""
    start = (blocks - 1 - pl.program_id(0)) * tiles.queries
    q = q_ref[...]
    query_segments = segments_ref[pl.ds(start, tiles.queries)]

    def body(block: Array, carry: tuple[Array, Array, Array], *, masked: bool) -> tuple[Array, Array, Array]:
        attended, highest, total = carry
        here = pl.ds(block * tiles.keys, tiles.keys)
        scores = _dot(q, k_ref[here, :], trans_b=True) * (scale * _LOG2_E)
        if masked:
            seen = query_segments[:, None] == segments_ref[here][None, :]
            query_at = start + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            key_at = block * tiles.keys + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            scores = jnp.where(seen & (query_at >= key_at), scores, _MASKED)
        # While nothing is seen yet, `highest` is the masked value and rubbish adds up; the first true score wipes it
        # out (exp2 of -1e30 is 0), and every query sees at least itself.
        new_highest = jnp.maximum(highest, jnp.max(scores, axis=1))
        exps = jnp.exp2(scores - new_highest[:, None])
        correction = jnp.exp2(highest - new_highest)
        v = v_ref[here, :]
        attended = attended * correction[:, None] + _dot(exps.astype(v.dtype), v)
        return attended, new_highest, total * correction + jnp.sum(exps, axis=1)

    empty = jnp.zeros(q.shape, jnp.float32)
    lowest = jnp.full((tiles.queries,), _MASKED, jnp.float32)
    attended, highest, total = _for_blocks(walk_ref, body, (empty, lowest, jnp.zeros_like(lowest)))
    out_ref[...] = (attended / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = highest + jnp.log2(total)


def _d_queries_kernel(
    walk_ref: Any, segments_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, d_out_ref: Any, lse_ref: Any,
    delta_ref: Any, dq_ref: Any, *, tiles: Tiles, scale: float, blocks: int,
) -> None:  # fmt: skip
    """The gradient of one block of queries of one head."""
    start = (blocks - 1 - pl.program_id(0)) * tiles.queries
    q, d_out, lse, delta = q_ref[...], d_out_ref[...], lse_ref[...], delta_ref[...]
    query_segments = segments_ref[pl.ds(start, tiles.queries)]

    def body(block: Array, dq: Array, *, masked: bool) -> Array:
        here = pl.ds(block * tiles.keys, tiles.keys)
        k = k_ref[here, :]
        scores = _dot(q, k, trans_b=True) * (scale * _LOG2_E)
        if masked:
            seen = query_segments[:, None] == segments_ref[here][None, :]
            query_at = start + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
            key_at = block * tiles.keys + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            scores = jnp.where(seen & (query_at >= key_at), scores, _MASKED)
        weights = jnp.exp2(scores - lse[:, None])
        d_weights = _dot(d_out, v_ref[here, :], trans_b=True)
        d_scores = weights * (d_weights - delta[:, None])
        return dq + _dot(d_scores.astype(k.dtype), k)

    dq = _for_blocks(walk_ref, body, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


def _d_keys_kernel(
    walk_ref: Any, segments_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, d_out_ref: Any, lse_ref: Any,
    delta_ref: Any, dk_ref: Any, dv_ref: Any, *, tiles: Tiles, scale: float, group: int,
) -> None:  # fmt: skip
    """The gradients of one block of keys and values: summed over its queries and over the heads of its group."""
    start = pl.program_id(0) * tiles.keys
    k, v = k_ref[...], v_ref[...]
    key_segments = segments_ref[pl.ds(start, tiles.keys)]

    def one_head(head: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def body(block: Array, carry: tuple[Array, Array], *, masked: bool) -> tuple[Array, Array]:
            dk, dv = carry
            here = pl.ds(block * tiles.queries, tiles.queries)
            q, d_out = q_ref[here, head, :], d_out_ref[here, head, :]
            # Scores stand transposed, keys x queries, so that no product needs a transposed left side.
            scores = _dot(k, q, trans_b=True) * (scale * _LOG2_E)
            if masked:
                seen = key_segments[:, None] == segments_ref[here][None, :]
                key_at = start + lax.broadcasted_iota(jnp.int32, scores.shape, 0)
                query_at = block * tiles.queries + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
                scores = jnp.where(seen & (query_at >= key_at), scores, _MASKED)
            weights = jnp.exp2(scores - lse_ref[head, here][None, :])
            dv = dv + _dot(weights.astype(d_out.dtype), d_out)
            d_weights = _dot(v, d_out, trans_b=True)
            d_scores = weights * (d_weights - delta_ref[head, here][None, :])
            return dk + _dot(d_scores.astype(q.dtype), q), dv

        return _for_blocks(walk_ref, body, carry)

    empty = jnp.zeros(k.shape, jnp.float32)
    dk, dv = lax.fori_loop(0, group, one_head, (empty, empty))
    dk_ref[...] = (dk * scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(plan: Plan, scale: float, queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return _forward(plan, scale, queries, keys, values, segment_ids)[0]


def _forward(
    plan: Plan, scale: float, queries: Array, keys: Array, values: Array, segment_ids: Array
) -> tuple[Array, tuple[Array, ...]]:
    rows, time, heads, head_dim = queries.shape
    tiles, group = plan.forward, heads // keys.shape[2]
    blocks = time // tiles.queries
    # Late blocks have the most keys: they go first, so that no long one is left at the end.
    of_queries = pl.BlockSpec((None, tiles.queries, None, head_dim), lambda i, h, r: (r, blocks - 1 - i, h, 0))
    of_keys = pl.BlockSpec((None, time, None, head_dim), lambda i, h, r: (r, 0, h // group, 0))
    of_statistics = pl.BlockSpec((None, None, tiles.queries), lambda i, h, r: (r, h, blocks - 1 - i))
    attended, lse = pl.pallas_call(
        partial(_forward_kernel, tiles=tiles, scale=scale, blocks=blocks),
        grid=(blocks, heads, rows),
        in_specs=[
            pl.BlockSpec((None, None, 4), lambda i, h, r: (r, blocks - 1 - i, 0)),
            pl.BlockSpec((None, time), lambda i, h, r: (r, 0)),
            of_queries, of_keys, of_keys,
        ],
        out_specs=[of_queries, of_statistics],
        out_shape=[
            jax.ShapeDtypeStruct(queries.shape, queries.dtype),
            jax.ShapeDtypeStruct((rows, heads, time), jnp.float32),
        ],
        compiler_params=_compiler_params(tiles),
        interpret=plan.interpret,
        name="flash_attention_forward",
    )(
        key_walks(segment_ids, query_block=tiles.queries, key_block=tiles.keys),
        segment_ids, queries, keys, values,
    )  # fmt: skip
    return attended, (queries, keys, values, segment_ids, attended, lse)


def _backward(plan: Plan, scale: float, saved: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    queries, keys, values, segment_ids, attended, lse = saved
    delta = jnp.sum(attended.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1).transpose(0, 2, 1)
    inputs = (segment_ids, queries, keys, values, d_out, lse, delta)
    dq = _d_queries(plan, scale, *inputs)
    dk, dv = _d_keys(plan, scale, *inputs)
    return dq, dk, dv, None


def _d_queries(
    plan: Plan, scale: float, segment_ids: Array, queries: Array, keys: Array, values: Array, d_out: Array,
    lse: Array, delta: Array,
) -> Array:  # fmt: skip
    rows, time, heads, head_dim = queries.shape
    tiles, group = plan.d_queries, heads // keys.shape[2]
    blocks = time // tiles.queries
    of_queries = pl.BlockSpec((None, tiles.queries, None, head_dim), lambda i, h, r: (r, blocks - 1 - i, h, 0))
    of_keys = pl.BlockSpec((None, time, None, head_dim), lambda i, h, r: (r, 0, h // group, 0))
    of_statistics = pl.BlockSpec((None, None, tiles.queries), lambda i, h, r: (r, h, blocks - 1 - i))
    return pl.pallas_call(
        partial(_d_queries_kernel, tiles=tiles, scale=scale, blocks=blocks),
        grid=(blocks, heads, rows),
        in_specs=[
            pl.BlockSpec((None, None, 4), lambda i, h, r: (r, blocks - 1 - i, 0)),
            pl.BlockSpec((None, time), lambda i, h, r: (r, 0)),
            of_queries, of_keys, of_keys, of_queries, of_statistics, of_statistics,
        ],
        out_specs=of_queries,
        out_shape=jax.ShapeDtypeStruct(queries.shape, queries.dtype),
        compiler_params=_compiler_params(tiles),
        interpret=plan.interpret,
        name="flash_attention_d_queries",
    )(
        key_walks(segment_ids, query_block=tiles.queries, key_block=tiles.keys),
        segment_ids, queries, keys, values, d_out, lse, delta,
    )  # fmt: skip


def _d_keys(
    plan: Plan, scale: float, segment_ids: Array, queries: Array, keys: Array, values: Array, d_out: Array,
    lse: Array, delta: Array,
) -> tuple[Array, Array]:  # fmt: skip
    rows, time, kv_heads, head_dim = keys.shape
    tiles, group = plan.d_keys, queries.shape[2] // kv_heads
    # Early blocks have the most queries, and they go first as they are.
    of_queries = pl.BlockSpec((None, time, group, head_dim), lambda j, h, r: (r, 0, h, 0))
    of_keys = pl.BlockSpec((None, tiles.keys, None, head_dim), lambda j, h, r: (r, j, h, 0))
    of_statistics = pl.BlockSpec((None, group, time), lambda j, h, r: (r, h, 0))
    dk, dv = pl.pallas_call(
        partial(_d_keys_kernel, tiles=tiles, scale=scale, group=group),
        grid=(time // tiles.keys, kv_heads, rows),
        in_specs=[
            pl.BlockSpec((None, None, 4), lambda j, h, r: (r, j, 0)),
            pl.BlockSpec((None, time), lambda j, h, r: (r, 0)),
            of_queries, of_keys, of_keys, of_queries, of_statistics, of_statistics,
        ],
        out_specs=[of_keys, of_keys],
        out_shape=[jax.ShapeDtypeStruct(keys.shape, keys.dtype), jax.ShapeDtypeStruct(values.shape, values.dtype)],
        compiler_params=_compiler_params(tiles),
        interpret=plan.interpret,
        name="flash_attention_d_keys",
    )(
        query_walks(segment_ids, query_block=tiles.queries, key_block=tiles.keys),
        segment_ids, queries, keys, values, d_out, lse, delta,
    )  # fmt: skip
    return dk, dv


def _compiler_params(tiles: Tiles) -> Any:
    return plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages)


_attention.defvjp(_forward, _backward)
