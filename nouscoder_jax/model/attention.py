"""Causal grouped-query attention over packed rows.

In: queries, keys, values and segment ids of rows that hold several sequences each. Out: attended values. A query sees
the keys of its own segment up to itself; padding (segment 0) sees only padding, so nothing of it reaches a sequence.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

QUERY_BLOCK_TOKENS = 512
"""Rows longer than this are attended in blocks of queries: scores exist for one block at a time, and keys after a
block's last query are not touched."""


def _attend(
    queries: Float[Array, "rows queries kv_heads group head_dim"],
    keys: Float[Array, "rows keys kv_heads head_dim"],
    values: Float[Array, "rows keys kv_heads head_dim"],
    query_segments: Int[Array, "rows queries"],
    key_segments: Int[Array, "rows keys"],
    *,
    first_query: int,
) -> Float[Array, "rows queries kv_heads group head_dim"]:
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", queries, keys, preferred_element_type=jnp.float32)
    query_index = first_query + jnp.arange(queries.shape[1])
    causal = query_index[:, None] >= jnp.arange(keys.shape[1])[None, :]
    same = query_segments[:, :, None] == key_segments[:, None, :]
    mask = (same & causal[None])[:, None, None]
    # Every query sees at least itself, so that a finite floor is as good as -inf and has no NaN in its gradient.
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1).astype(values.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, values)


def reference(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
) -> Float[Array, "rows time heads head_dim"]:
    """Returns softmax(q k / sqrt(head_dim)) v in plain jax.numpy; scores and softmax in float32.

    Memory: rows x heads x 512 x time scores at once; the backward pass computes them again block by block.
    """
    rows, time, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    scaled = (queries * head_dim**-0.5).reshape(rows, time, kv_heads, heads // kv_heads, head_dim)
    if time <= QUERY_BLOCK_TOKENS:
        attended = _attend(scaled, keys, values, segment_ids, segment_ids, first_query=0)
        return attended.reshape(queries.shape)
    blocks = []
    for start in range(0, time, QUERY_BLOCK_TOKENS):
        end = min(start + QUERY_BLOCK_TOKENS, time)
        attend = jax.checkpoint(lambda q, k, v, qs, ks, start=start: _attend(q, k, v, qs, ks, first_query=start))
        blocks.append(
            attend(
                scaled[:, start:end], keys[:, :end], values[:, :end], segment_ids[:, start:end], segment_ids[:, :end]
            )
        )
    return jnp.concatenate(blocks, axis=1).reshape(queries.shape)


ATTENTION: dict[str, Callable[..., Array]] = {"reference": reference}
"""Implementations by their name in `config.model.attention`; all have `reference`'s signature."""
