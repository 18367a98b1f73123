"""Logprobs of given tokens and the entropy of their distribution, without all logits at once.

In: final-normed hidden states, the output embedding, target ids. Out: float32 logprobs and entropy of every position.
The time axis is walked in chunks whose logits are recomputed in the backward pass, so that rows x time x vocab never
exists; rows are never split, so that they stay where the mesh put them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int


def token_logprobs(
    hidden: Float[Array, "rows time embed"],
    output_embedding: Float[Array, "vocab embed"],
    targets: Int[Array, "rows time"],
    *,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Float32[Array, "rows time"], Float32[Array, "rows time"]]:
    """log softmax(hidden W^T / temperature) at `targets`, and that distribution's entropy, both in nats.

    Matrix products take `hidden`'s dtype and accumulate in float32; the softmax is float32. The entropy carries no
    gradient. At most about `chunk_tokens` tokens (at least one position of every row) have logits at a time.
    """
    rows, time, embed = hidden.shape
    num_chunks = -(-time // min(time, max(1, chunk_tokens // rows)))
    chunk = -(-time // num_chunks)
    padding = num_chunks * chunk - time

    def split(array: Array) -> Array:
        widths = [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2)
        return jnp.moveaxis(jnp.pad(array, widths).reshape(rows, num_chunks, chunk, *array.shape[2:]), 1, 0)

    # The chunk casts the weight itself: outside, gradients of the chunks would be summed in the compute dtype.
    @jax.checkpoint
    def one_chunk(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        return _chunk_logprobs(inputs[0], output_embedding, inputs[1], temperature=temperature)

    def join(array: Array) -> Array:
        return jnp.moveaxis(array, 0, 1).reshape(rows, num_chunks * chunk)[:, :time]

    logprobs, entropy = jax.lax.map(one_chunk, (split(hidden), split(targets)))
    return join(logprobs), join(entropy)


def _chunk_logprobs(
    hidden: Float[Array, "rows chunk embed"],
    output_embedding: Float[Array, "vocab embed"],
    targets: Int[Array, "rows chunk"],
    *,
    temperature: float,
) -> tuple[Float32[Array, "rows chunk"], Float32[Array, "rows chunk"]]:
    """Logprobs and entropy of one chunk, through its full logits."""
    weight = output_embedding.astype(hidden.dtype)
    logits = jnp.einsum("btd,vd->btv", hidden, weight, preferred_element_type=jnp.float32) / temperature
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A comparison with iota instead of a gather: it fuses into the reduction and works on a sharded vocabulary.
    vocab = jnp.arange(logits.shape[-1], dtype=targets.dtype)[None, None, :]
    target_logits = jnp.sum(jnp.where(vocab == targets[:, :, None], logits, 0.0), axis=-1)
    log_p = jax.lax.stop_gradient(logits - normalizer[:, :, None])
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    return target_logits - normalizer, entropy
