"""Causal grouped-query attention over packed rows: `reference` in plain jax, `cudnn` and `pallas` for GPUs.

In: queries, keys, values and segment ids of rows that hold several sequences each, every one an unbroken run of its
own id. Out: attended values. A query sees the keys of its own segment up to itself. Padding is segment 0: nothing of
it reaches a sequence, and what stands at its positions afterwards is finite and means nothing (`reference`: 0).
`check_attention` says whether a device and a model can run a choice; nothing here falls back to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax._src.lib import cuda_versions  # jax has no public name for it, and would fail in the middle of a compilation
from jaxtyping import Array, DTypeLike, Float, Float32, Int, Int32

from nouscoder_jax.config import UserError

BLOCK_TOKENS = 64
"""Queries, and keys, of one block. On a CPU 64 beats 128 and 256 in packed rows and in rows of one long sequence."""
DIRECT_TOKENS = BLOCK_TOKENS
"""Rows up to this long are attended at once. From 128 tokens on blocks take half the time or less, packed or not."""
_PADDING = 2**30
_MASKED = -1e30
_einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


def reference(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
) -> Float[Array, "rows time heads head_dim"]:
    """Returns softmax(q k / sqrt(head_dim)) v in the dtype of the queries, 0 at padding; exact, on any device.

    Products are taken in the dtype of the inputs and summed in float32; scores and softmax are float32. Rows longer
    than DIRECT_TOKENS are walked in blocks as by FlashAttention-2 (arXiv:2307.08691): a block of queries meets only
    the blocks of keys from the start of its first segment up to itself, and the backward pass makes the scores again
    from the saved logsumexp. Scores take heads x BLOCK_TOKENS^2 at once, of short rows rows x heads x time^2.
    """
    if queries.shape[1] <= DIRECT_TOKENS:
        return _at_once(queries, keys, values, segment_ids)
    return _blockwise(queries, keys, values, segment_ids)


def cudnn(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
) -> Float[Array, "rows time heads head_dim"]:
    """Returns cuDNN's flash attention of rows that hold ONE sequence each, padded on the right; 0 at padding.

    Of `segment_ids` only the number of tokens that are not padding is read: a second segment would see the first.
    Whether rows are packed is a property of the run, not of the data: `check_attention` refuses packed runs.
    """
    lengths = jnp.sum(segment_ids > 0, axis=1).astype(jnp.int32)
    lengths = jnp.maximum(lengths, 1)  # a row of padding alone would have an empty softmax
    attended = jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return jnp.where((segment_ids > 0)[:, :, None, None], attended, 0)


def pallas(
    queries: Float[Array, "rows time heads head_dim"],
    keys: Float[Array, "rows time kv_heads head_dim"],
    values: Float[Array, "rows time kv_heads head_dim"],
    segment_ids: Int[Array, "rows time"],
) -> Float[Array, "rows time heads head_dim"]:
    """Returns what `reference` does from the project's own GPU kernel, for packed rows of any length."""
    from nouscoder_kernels.flash_attention import flash_attention  # Pallas is not loaded where nobody chose it

    return flash_attention(queries, keys, values, segment_ids, interpret=False)


ATTENTION: dict[str, Callable[..., Array]] = {"reference": reference, "cudnn": cudnn, "pallas": pallas}
"""Implementations by their name in `config.model.attention`; all have `reference`'s signature."""


def check_attention(
    name: str,
    *,
    platform: str,
    compute_dtype: DTypeLike,
    head_dim: int,
    num_heads: int,
    num_kv_heads: int,
    packed: bool,
) -> None:
    """Returns where this device, this model and these rows allow `config.model.attention` = `name`.

    `platform` is that of the devices that compute ("cpu", "gpu", or "cuda"); `packed`: rows may hold more than one
    sequence. The limits of cuDNN are those of jax.nn.dot_product_attention for training on any GPU since Ampere.

    Raises:
        UserError: the choice is not allowed; names what was got, what it takes and the fix. Nothing is changed.
    """

    def refuse(got: str, takes: str, *, instead: str) -> UserError:
        return UserError(f"model.attention={name} got {got}; it takes {takes}: set --model.attention {instead}")

    if name not in ATTENTION:
        raise UserError(f"model.attention is {name!r}; use one of {', '.join(ATTENTION)}")
    if num_heads % num_kv_heads:
        raise refuse(f"{num_heads} heads over {num_kv_heads} kv heads", "whole groups", instead="reference")
    if name == "reference":
        return
    if platform not in ("gpu", "cuda"):
        raise refuse(f"platform {platform}", "NVIDIA GPUs only", instead="reference")
    dtype = jnp.dtype(compute_dtype).name
    if name == "pallas":
        from nouscoder_kernels.flash_attention import MAX_HEAD_DIM

        if head_dim > MAX_HEAD_DIM:
            raise refuse(f"head_dim {head_dim}", f"{MAX_HEAD_DIM} at most", instead="reference")
        return
    if packed:
        raise refuse("packed rows", "rows of one sequence each (it has no segment ids)", instead="pallas")
    if dtype not in ("bfloat16", "float16"):
        raise refuse(f"compute_dtype {dtype}", "bfloat16 or float16", instead="pallas")
    if head_dim % 8 or head_dim > 128:
        raise refuse(f"head_dim {head_dim}", "multiples of 8 up to 128", instead="reference")
    if not has_cudnn():
        raise refuse("a machine without cuDNN", "the library (pip install nvidia-cudnn-cu12)", instead="pallas")


def has_cudnn() -> bool:
    """Whether cuDNN can be loaded here; to compile for a GPU elsewhere jax wants it too."""
    if cuda_versions is None:
        return False
    try:
        return cuda_versions.cudnn_get_version() > 0
    except RuntimeError:  # the plugin is there, the library is not
        return False


def _at_once(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    """Returns attention with all scores of all rows at once."""
    rows, time, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    q = (queries * head_dim**-0.5).reshape(rows, time, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    # Padding sees only padding: values of 0 there make its output and all its gradients 0, for less than a last pass.
    values = jnp.where((segment_ids > 0)[:, :, None, None], values, 0)
    k, v = keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)
    causal = jnp.arange(time)[:, None] >= jnp.arange(time)[None, :]
    mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & causal[None]
    # Every query sees at least itself, so that a finite floor is as good as -inf and has no NaN in its gradient.
    scores = jnp.where(mask[:, None, None], _einsum("BKGTH,BKSH->BKGTS", q, k), _MASKED)
    # Dividing by the sum after the product with the values, and no gradient through the maximum (it cancels), is the
    # same function as softmax and, forward and backward, 2.5 times faster than jax.nn.softmax on a CPU.
    exps = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(exps, axis=-1, keepdims=True)
    attended = (_einsum("BKGTS,BKSH->BKGTH", exps.astype(v.dtype), v) / total).astype(queries.dtype)
    return attended.transpose(0, 3, 1, 2, 4).reshape(queries.shape)


class _Walk(NamedTuple):
    """Which keys each query sees, once the rows are laid end to end and cut into blocks."""

    first_keys: Int32[Array, "blocks block"]
    """Start of each query's segment; _PADDING for padding."""
    first_blocks: Int32[Array, " blocks"]
    """First block of keys that a block of queries meets; its own number + 1 where it is all padding."""

    def mask(self, i: Array, j: Array) -> Array:
        """Returns which keys of block j the queries of block i see, "1 1 block block"."""
        within = jnp.arange(BLOCK_TOKENS)
        query, key = (i * BLOCK_TOKENS + within)[:, None], (j * BLOCK_TOKENS + within)[None, :]
        return ((key <= query) & (key >= self.first_keys[i][:, None]))[None, None]


def _walk(segment_ids: Int[Array, "rows time"]) -> _Walk:
    index = jnp.arange(segment_ids.size, dtype=jnp.int32).reshape(segment_ids.shape)
    starts = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first_keys = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    first_keys = jnp.where(segment_ids > 0, first_keys, _PADDING).reshape(-1)
    first_keys = jnp.pad(first_keys, (0, -first_keys.size % BLOCK_TOKENS), constant_values=_PADDING)
    first_keys = first_keys.reshape(-1, BLOCK_TOKENS)
    after = 1 + jnp.arange(len(first_keys), dtype=jnp.int32)
    return _Walk(first_keys, jnp.minimum(jnp.min(first_keys, axis=1) // BLOCK_TOKENS, after))


def _to_blocks(array: Array, kv_heads: int) -> Float[Array, "blocks kv_heads group_block head_dim"]:
    """Returns "rows time heads head_dim" laid end to end, in blocks; the heads of a group lie one after another."""
    flat = array.reshape(-1, *array.shape[2:])
    flat = jnp.pad(flat, ((0, -len(flat) % BLOCK_TOKENS), (0, 0), (0, 0)))
    blocks = flat.reshape(-1, BLOCK_TOKENS, kv_heads, array.shape[2] // kv_heads, array.shape[3])
    return blocks.transpose(0, 2, 3, 1, 4).reshape(len(blocks), kv_heads, -1, array.shape[3])


def _from_blocks(blocks: Array, like: Array) -> Array:
    """Returns what `_to_blocks` took, in the shape and dtype of `like`."""
    apart = blocks.reshape(*blocks.shape[:2], -1, BLOCK_TOKENS, blocks.shape[-1]).transpose(0, 3, 1, 2, 4)
    return apart.reshape(-1, *like.shape[2:])[: like.shape[0] * like.shape[1]].reshape(like.shape).astype(like.dtype)


def _scores(q: Array, k: Array, mask: Array) -> Float32[Array, "kv_heads group_block block"]:
    """Returns scaled scores of a block of queries with a block of keys."""
    scores = _einsum("kqh,ksh->kqs", q, k) * q.shape[-1] ** -0.5
    apart = scores.reshape(len(scores), -1, BLOCK_TOKENS, BLOCK_TOKENS)
    return jnp.where(mask, apart, _MASKED).reshape(scores.shape)


@jax.custom_vjp
def _blockwise(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return _forward(queries, keys, values, segment_ids)[0]


def _forward(queries: Array, keys: Array, values: Array, segment_ids: Array) -> tuple[Array, tuple[Array, ...]]:
    """Returns attended values, and what the backward pass wants."""
    walk, kv_heads = _walk(segment_ids), keys.shape[2]
    q, k, v = (_to_blocks(array, kv_heads) for array in (queries, keys, values))
    real = jnp.broadcast_to((walk.first_keys < _PADDING)[:, None, None], (len(q), *q.shape[1:2], 1, BLOCK_TOKENS))
    real = jnp.tile(real, (1, 1, queries.shape[2] // kv_heads, 1)).reshape(q.shape[:3])

    def of_queries(_: None, i: Array) -> tuple[None, tuple[Array, Array]]:
        def with_keys(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            largest, total, attended = carry
            scores = _scores(q[i], k[j], walk.mask(i, j))
            larger = jnp.maximum(largest, jnp.max(scores, axis=-1))
            exps, shrink = jnp.exp(scores - larger[..., None]), jnp.exp(largest - larger)
            attended = attended * shrink[..., None] + _einsum("kqs,ksh->kqh", exps.astype(v.dtype), v[j])
            return larger, total * shrink + jnp.sum(exps, axis=-1), attended

        zeros = jnp.zeros(q.shape[1:3], jnp.float32)
        start = (zeros + _MASKED, zeros, jnp.zeros(q.shape[1:], jnp.float32))
        largest, total, attended = jax.lax.fori_loop(walk.first_blocks[i], i + 1, with_keys, start)
        total = jnp.where(real[i], total, 1)  # blocks of padding are not walked, and what padding saw means nothing
        attended = jnp.where(real[i][..., None], attended / total[..., None], 0).astype(queries.dtype)
        return None, (attended, largest + jnp.log(total))

    _, (attended, logsumexp) = jax.lax.scan(of_queries, None, jnp.arange(len(q)))
    out = _from_blocks(attended, queries)
    return out, (queries, keys, values, segment_ids, out, logsumexp)


def _backward(saved: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    """Returns the gradients of queries, keys and values (arXiv:2307.08691, algorithm 2, queries outermost)."""
    queries, keys, values, segment_ids, out, logsumexp = saved
    walk, kv_heads, scale = _walk(segment_ids), keys.shape[2], queries.shape[3] ** -0.5
    d_out = jnp.where((segment_ids > 0)[:, :, None, None], d_out, 0)
    q, k, v, g = (_to_blocks(array, kv_heads) for array in (queries, keys, values, d_out))
    through_total = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    through_total = _to_blocks(through_total, kv_heads)

    def of_queries(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        def with_keys(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q, d_k, d_v = carry
            weights = jnp.exp(_scores(q[i], k[j], walk.mask(i, j)) - logsumexp[i][..., None])
            d_scores = weights * (_einsum("kqh,ksh->kqs", g[i], v[j]) - through_total[i])
            d_scores = d_scores.astype(q.dtype)
            d_v = d_v.at[j].add(_einsum("kqs,kqh->ksh", weights.astype(g.dtype), g[i]))
            d_k = d_k.at[j].add(_einsum("kqs,kqh->ksh", d_scores, q[i]))
            return d_q + _einsum("kqs,ksh->kqh", d_scores, k[j]), d_k, d_v

        start = (jnp.zeros(q.shape[1:], jnp.float32), *carry)
        d_q, d_k, d_v = jax.lax.fori_loop(walk.first_blocks[i], i + 1, with_keys, start)
        return (d_k, d_v), (d_q * scale).astype(queries.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (d_k, d_v), d_q = jax.lax.scan(of_queries, (zeros, zeros), jnp.arange(len(q)))
    return _from_blocks(d_q, queries), _from_blocks(d_k * scale, keys), _from_blocks(d_v, values), None


_blockwise.defvjp(_forward, _backward)
