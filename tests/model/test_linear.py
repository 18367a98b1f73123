"""Products with float32 weight gradients, SwiGLU in chunks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.model.linear import project, swiglu, swiglu_in_chunks

pytestmark = pytest.mark.usefixtures("quick_compilation")


def normal(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize(
    ("equation", "x", "weight"),
    [
        ("BTD,DNH->BTNH", (2, 3, 4), (4, 5, 6)),
        ("BTNH,NHD->BTD", (2, 3, 5, 6), (5, 6, 4)),
        ("...D,DF->...F", (7, 4), (4, 6)),
    ],
)
def test_a_projection_has_the_value_and_gradients_of_einsum(equation, x, weight):
    x, weight = normal(0, *x), normal(1, *weight)
    ours, theirs = (jax.vjp(partial(function, equation), x, weight) for function in (project, jnp.einsum))
    grad = normal(2, *ours[0].shape)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), (ours[0], ours[1](grad)), (theirs[0], theirs[1](grad)))


def test_the_gradient_of_a_weight_is_not_rounded_to_bfloat16():
    """4,096 products of 1 sum up to 4,097 with one of 2: bfloat16 has 8 bits and no 4,097."""
    x = jnp.ones((4096, 1), jnp.bfloat16).at[0].set(2)
    grad = jax.grad(lambda w: project("TD,DF->TF", x, w).astype(jnp.float32).sum())(jnp.ones((1, 1)))
    assert grad.dtype == jnp.float32 and float(grad[0, 0]) == 4097


def test_swiglu_of_ones_is_silu_of_one():
    one = jnp.ones((1, 1))
    assert float(swiglu(one, one, one, one)[0, 0]) == pytest.approx(1 / (1 + np.exp(-1.0)))  # silu(1) * 1 * 1


@pytest.mark.parametrize("chunk_tokens", [1, 4, 5, 14, 100])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_of_any_size_give_value_and_gradients_of_the_whole(chunk_tokens, dtype):
    x, gate, up, down = normal(0, 2, 7, 8, dtype=dtype), normal(1, 8, 12), normal(2, 8, 12), normal(3, 12, 8)
    whole = jax.vjp(swiglu, x, gate, up, down)
    chunked = jax.vjp(partial(swiglu_in_chunks, chunk_tokens=chunk_tokens), x, gate, up, down)
    grad = normal(4, 2, 7, 8, dtype=dtype)
    tolerance = {"float32": 1e-4, "bfloat16": 0.2}[dtype]
    pairs = zip(
        jax.tree.leaves((chunked[0], chunked[1](grad))), jax.tree.leaves((whole[0], whole[1](grad))), strict=True
    )
    for ours, expected in pairs:
        assert ours.dtype == expected.dtype
        np.testing.assert_allclose(np.asarray(ours, np.float32), np.asarray(expected, np.float32), atol=tolerance)


def test_chunks_keep_nothing_as_long_as_the_row_and_as_wide_as_the_mlp():
    x, gate, up, down = normal(0, 1, 64, 8), normal(1, 8, 24), normal(2, 8, 24), normal(3, 24, 8)

    def loss(*inputs):
        return swiglu_in_chunks(*inputs, chunk_tokens=16).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3)))(x, gate, up, down))
    assert "16,24]" in text and "64,24]" not in text
