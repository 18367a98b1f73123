"""Linear + logprobs + entropy: the same function as its reference, and never tokens x vocabulary of anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_kernels.linear_logprobs import (
    LogitStatistics,
    finished,
    linear_logprobs,
    linear_logprobs_reference,
    logit_gradients,
    logit_statistics,
    merged,
    products,
)

# bf16 gradients: one rounding of the logits' gradient (2^-9) and one of the result, against unrounded ones.
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2}


def arrays(tokens, embed, vocab, dtype=jnp.float32, weight_dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(tokens, embed)), dtype)
    weight = jnp.asarray(0.3 * rng.normal(size=(vocab, embed)), weight_dtype)
    return (
        hidden,
        weight,
        jnp.asarray(rng.integers(0, vocab, tokens)),
        jnp.asarray(rng.normal(size=tokens), jnp.float32),
    )


def with_gradients(function, **settings):
    def run(hidden, weight, targets, d_logprobs):
        outputs, pull = jax.vjp(lambda *inputs: function(*inputs, targets, **settings), hidden, weight)
        return outputs, pull((d_logprobs, jnp.ones_like(d_logprobs)))

    return run


@pytest.mark.parametrize(
    ("tokens", "embed", "vocab", "dtype", "weight_dtype", "temperature", "chunk_vocab"),
    [
        (16, 32, 64, jnp.float32, jnp.float32, 1.0, 64),
        (37, 48, 200, jnp.float32, jnp.float32, 0.7, 64),
        (37, 48, 200, jnp.bfloat16, jnp.float32, 1.0, 1000),
        pytest.param(64, 64, 500, jnp.bfloat16, jnp.bfloat16, 1.3, 70, marks=pytest.mark.slow),
        pytest.param(1, 16, 33, jnp.float32, jnp.float32, 1.0, 1, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_are_the_references(
    tokens, embed, vocab, dtype, weight_dtype, temperature, chunk_vocab, run, difference
):
    inputs = arrays(tokens, embed, vocab, dtype, weight_dtype)
    settings = {"temperature": temperature, "chunk_vocab": chunk_vocab, "interpret": True}
    outputs, gradients = run(with_gradients(linear_logprobs, **settings), *inputs)
    expected, expected_gradients = run(with_gradients(linear_logprobs_reference, **settings), *inputs)
    assert difference(outputs, expected) < 1e-5
    assert difference(gradients, expected_gradients) < TOLERANCE[dtype]


def test_equal_logits_give_the_logprob_and_entropy_of_a_uniform_distribution(run):
    function = functools.partial(linear_logprobs, temperature=1.0, chunk_vocab=50, interpret=True)
    logprobs, entropy = run(function, jnp.zeros((3, 16)), jnp.ones((50, 16)), jnp.array([0, 7, 49]))
    np.testing.assert_allclose(logprobs, -np.log(50.0), rtol=1e-6)
    np.testing.assert_allclose(entropy, np.log(50.0), rtol=1e-6)


def test_logits_far_below_and_above_zero_lose_nothing(run):
    # Two ids at 0 and the others far away: ln 2 each, whatever is added to all logits.
    weight = jnp.full((40, 16), -1.0).at[3].set(0.0).at[35].set(0.0)
    function = functools.partial(linear_logprobs, temperature=1.0, chunk_vocab=40, interpret=True)
    shifted = weight.at[:, 0].add(600.0)  # one hidden dim is 1: every logit grows by 600
    hidden = jnp.full((2, 16), 100.0).at[:, 0].set(1.0)
    for embedding in (weight, shifted):
        logprobs, entropy = run(function, hidden, embedding, jnp.array([3, 35]))
        np.testing.assert_allclose(logprobs, -np.log(2.0), rtol=1e-4)
        np.testing.assert_allclose(entropy, np.log(2.0), rtol=1e-4)


def test_statistics_of_chunks_add_up_to_those_of_the_whole(run, difference):
    hidden, weight, targets, _ = arrays(20, 32, 100)
    statistics = functools.partial(logit_statistics, temperature=0.9, interpret=True)
    whole = finished(run(statistics, hidden, weight, targets))
    parts = [run(statistics, hidden, weight[at : at + 50], targets - at) for at in (0, 50)]
    stacked = LogitStatistics(*map(jnp.stack, zip(*parts, strict=True)))
    assert difference(finished(merged(stacked)), whole) < 1e-6


def test_merging_two_parts_worked_out_by_hand():
    # Logits 0, 0 | ln 2: weights 1, 1, 2 of 4. The target is the last one.
    ln2 = float(np.log(2.0))
    parts = LogitStatistics(
        *(jnp.array(rows) for rows in ([[0.0], [ln2]], [[2.0], [1.0]], [[0.0], [0.0]], [[0.0], [ln2]]))
    )
    logprobs, entropy, normalizers = finished(merged(parts))
    np.testing.assert_allclose([logprobs[0], entropy[0], normalizers[0]], [-ln2, 1.5 * ln2, 2 * ln2], rtol=1e-6)


def test_the_gradient_of_a_chunk_is_what_it_adds(run, difference):
    hidden, weight, targets, d_logprobs = arrays(20, 32, 100)
    settings = {"temperature": 0.9, "interpret": True}
    *_, normalizers = finished(run(functools.partial(logit_statistics, **settings), hidden, weight, targets))
    d_hidden, d_weight = 0.0, []
    for at in (0, 50):
        rows = weight[at : at + 50]
        gradients = functools.partial(logit_gradients, **settings)
        d_logits = run(gradients, hidden, rows, targets - at, normalizers, d_logprobs)
        more, d_rows = products(d_logits, hidden, rows)
        d_hidden, d_weight = d_hidden + more, [*d_weight, d_rows]
    whole = with_gradients(linear_logprobs_reference, chunk_vocab=100, **settings)
    _, expected = run(whole, hidden, weight, targets, d_logprobs)
    assert difference((d_hidden, jnp.concatenate(d_weight)), expected) < 1e-5


def test_nothing_of_tokens_by_vocabulary_is_ever_made(shapes_of):
    tokens, vocab, chunk = 2_048, 32_768, 4_096
    inputs = [jax.ShapeDtypeStruct((tokens, 256), jnp.bfloat16), jax.ShapeDtypeStruct((vocab, 256), jnp.bfloat16)]
    inputs += [jax.ShapeDtypeStruct((tokens,), jnp.int32), jax.ShapeDtypeStruct((tokens,), jnp.float32)]

    def largest(function):
        settings = {"temperature": 1.0, "chunk_vocab": chunk, "interpret": False}
        shapes = shapes_of(with_gradients(function, **settings), *inputs)
        return max(np.prod(shape, dtype=np.int64) for shape in shapes if tokens in shape)

    assert largest(linear_logprobs) == tokens * chunk
    assert largest(linear_logprobs_reference) == tokens * vocab  # the check itself sees logits where there are some


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["h100", "b200"])
def test_the_gpu_compiler_needs_at_most_150_mib_at_full_vocabulary(gpu, gpu_compile):
    tokens, embed, vocab = 1_024, 5_120, 151_936
    inputs = [jax.ShapeDtypeStruct((tokens, embed), jnp.bfloat16), jax.ShapeDtypeStruct((vocab, embed), jnp.bfloat16)]
    inputs += [jax.ShapeDtypeStruct((tokens,), jnp.int32), jax.ShapeDtypeStruct((tokens,), jnp.float32)]
    step = with_gradients(linear_logprobs, temperature=1.0, chunk_vocab=4_096, interpret=False)
    compiled = gpu_compile(gpu, step, *inputs)
    assert "linear_logprobs_statistics" in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes / 2**20 <= 150
