"""Matrix products whose weight gradients are float32, and SwiGLU in chunks of tokens.

In: activations in the compute dtype, float32 weights. Out: activations in the compute dtype. Autodiff of a product of
two bfloat16 arrays rounds the weight's gradient to bfloat16 before it is summed over micro-batches and devices; here
it leaves the product as the float32 sum that the hardware made.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def project(equation: str, x: Float[Array, ...], weight: Float32[Array, ...]) -> Float[Array, ...]:
    """Returns einsum(equation, x, weight) in the dtype of x; the gradient of `weight` is float32."""
    return _project(equation, x, weight)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(equation: str, x: Array, weight: Array) -> Array:
    return jnp.einsum(equation, x, weight.astype(x.dtype))


def _project_forward(equation: str, x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _project(equation, x, weight), (x, weight)


def _project_backward(equation: str, residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, weight = residuals
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    grad_x = jnp.einsum(f"{out},{right}->{left}", grad, weight.astype(x.dtype))
    grad_weight = jnp.einsum(f"{left},{out}->{right}", x, grad, preferred_element_type=jnp.float32)
    return grad_x, grad_weight


_project.defvjp(_project_forward, _project_backward)


def swiglu(
    x: Float[Array, "*shape embed"],
    gate: Float32[Array, "embed mlp"],
    up: Float32[Array, "embed mlp"],
    down: Float32[Array, "mlp embed"],
) -> Float[Array, "*shape embed"]:
    """Returns down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""
    hidden = jax.nn.silu(project("...D,DF->...F", x, gate)) * project("...D,DF->...F", x, up)
    return project("...F,FD->...D", hidden, down)


def swiglu_in_chunks(
    x: Float[Array, "rows time embed"],
    gate: Float32[Array, "embed mlp"],
    up: Float32[Array, "embed mlp"],
    down: Float32[Array, "mlp embed"],
    *,
    chunk_tokens: int,
) -> Float[Array, "rows time embed"]:
    """Returns `swiglu`, of at most `chunk_tokens` tokens at a time, forward and backward: no "time mlp" is kept."""
    return _in_chunks(x, gate, up, down, chunk_tokens)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _in_chunks(x: Array, gate: Array, up: Array, down: Array, chunk_tokens: int) -> Array:
    rows, time, embed = x.shape
    chunks = _split(x, chunk_tokens)
    weights = [weight.astype(x.dtype) for weight in (gate, up, down)]
    if chunks.shape[0] == 1:
        return swiglu(x, gate, up, down)
    out = jax.lax.map(lambda chunk: swiglu(chunk, *(weight.astype(jnp.float32) for weight in weights)), chunks)
    return out.reshape(-1, embed)[: rows * time].reshape(x.shape)


def _split(x: Float[Array, "rows time embed"], chunk_tokens: int) -> Float[Array, "chunks tokens embed"]:
    """Returns the tokens in equal chunks; the last is filled up with zeros, which add nothing to any gradient."""
    tokens = x.shape[0] * x.shape[1]
    num_chunks = -(-tokens // chunk_tokens)
    flat = x.reshape(tokens, x.shape[2])
    size = -(-tokens // num_chunks)
    if size * num_chunks > tokens:
        flat = jnp.pad(flat, ((0, size * num_chunks - tokens), (0, 0)))
    return flat.reshape(num_chunks, size, x.shape[2])


def _chunks_forward(
    x: Array, gate: Array, up: Array, down: Array, chunk_tokens: int
) -> tuple[Array, tuple[Array, ...]]:
    return _in_chunks(x, gate, up, down, chunk_tokens), (x, gate, up, down)


def _chunks_backward(chunk_tokens: int, residuals: tuple[Array, ...], grad: Array) -> tuple[Array, ...]:
    x, *weights = residuals
    # The narrow copies are what the loop holds; float32 is the type that their gradients need, and is never made.
    narrow = [weight.astype(x.dtype) for weight in weights]

    def one(sums: tuple[Array, ...], chunk: tuple[Array, Array]) -> tuple[tuple[Array, ...], Array]:
        _, pull = jax.vjp(swiglu, chunk[0], *(weight.astype(jnp.float32) for weight in narrow))
        grad_x, *grads = pull(chunk[1])
        return tuple(total + part for total, part in zip(sums, grads, strict=True)), grad_x

    zeros = tuple(jnp.zeros(weight.shape, jnp.float32) for weight in weights)
    sums, grad_x = jax.lax.scan(one, zeros, (_split(x, chunk_tokens), _split(grad, chunk_tokens)))
    return grad_x.reshape(-1, x.shape[2])[: x.shape[0] * x.shape[1]].reshape(x.shape), *sums


_in_chunks.defvjp(_chunks_forward, _chunks_backward)
