"""Token logprobs: equal to the plain softmax, whatever the chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.logprobs import token_logprobs

ROWS, TIME, EMBED, VOCAB = 3, 10, 8, 29


def inputs():
    rng = np.random.default_rng(0)
    hidden = jnp.float32(rng.normal(size=(ROWS, TIME, EMBED)))
    weight = jnp.float32(rng.normal(size=(VOCAB, EMBED)))
    targets = jnp.asarray(rng.integers(0, VOCAB, (ROWS, TIME)), jnp.int32)
    return hidden, weight, targets


def plain(hidden, weight, targets, temperature):
    log_p = jax.nn.log_softmax(hidden @ weight.T / temperature)
    return jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0], -jnp.sum(jnp.exp(log_p) * log_p, -1)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 7, 12, 1000])
def test_logprobs_and_entropy_equal_the_plain_softmax(chunk_tokens):
    hidden, weight, targets = inputs()
    got = token_logprobs(hidden, weight, targets, temperature=0.7, chunk_tokens=chunk_tokens)
    for a, b in zip(got, plain(hidden, weight, targets, 0.7), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [4, 1000])
def test_gradients_equal_those_of_the_plain_softmax(chunk_tokens):
    hidden, weight, targets = inputs()
    cotangent = jnp.float32(np.random.default_rng(1).normal(size=(ROWS, TIME)))

    def chunked(h, w):
        return jnp.sum(cotangent * token_logprobs(h, w, targets, temperature=1.0, chunk_tokens=chunk_tokens)[0])

    def whole(h, w):
        return jnp.sum(cotangent * plain(h, w, targets, 1.0)[0])

    for a, b in zip(jax.grad(chunked, (0, 1))(hidden, weight), jax.grad(whole, (0, 1))(hidden, weight), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_entropy_carries_no_gradient():
    hidden, weight, targets = inputs()
    grad = jax.grad(lambda h: jnp.sum(token_logprobs(h, weight, targets, temperature=1.0, chunk_tokens=6)[1]))(hidden)
    assert not np.any(grad)


def test_all_logits_never_exist_at_once():
    hidden, weight, targets = jnp.zeros((2, 512, 8)), jnp.zeros((1024, 8)), jnp.zeros((2, 512), jnp.int32)

    def loss(h, w):
        return jnp.sum(token_logprobs(h, w, targets, temperature=1.0, chunk_tokens=64)[0])

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, weight).compile()
    all_logits_bytes = 2 * 512 * 1024 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < all_logits_bytes / 2


def test_bfloat16_hidden_gives_float32_logprobs_and_a_float32_weight_gradient():
    hidden, weight, targets = inputs()
    hidden = hidden.astype(jnp.bfloat16)
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=1.0, chunk_tokens=6)
    grad = jax.grad(lambda w: jnp.sum(token_logprobs(hidden, w, targets, temperature=1.0, chunk_tokens=6)[0]))(weight)
    assert logprobs.dtype == entropy.dtype == grad.dtype == jnp.float32
    np.testing.assert_allclose(logprobs, plain(hidden.astype(jnp.float32), weight, targets, 1.0)[0], atol=0.1)
