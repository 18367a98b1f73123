"""Token logprobs: equal to the plain softmax, whatever the chunks, the dtypes and the devices."""

import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from nouscoder_jax import logprobs
from nouscoder_jax.logprobs import WHOLE, Chunks, VocabShards, plan_chunks, token_logprobs

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEMPERATURE = 0.7
ROWS, TIME, EMBED, VOCAB = 3, 10, 8, 29  # a prime vocabulary: no chunk but 1 and 29 divides it

CHUNKS = {
    "one chunk": Chunks(rows=29, num=1, tail=0, kept=1, tokens=30),
    "one chunk, computed again": Chunks(rows=29, num=1, tail=0, kept=0, tokens=30),
    "single rows": Chunks(rows=1, num=29, tail=0, kept=0, tokens=30),
    "a tail": Chunks(rows=8, num=3, tail=5, kept=0, tokens=30),
    "a tail, tokens in blocks": Chunks(rows=8, num=3, tail=5, kept=0, tokens=7),
    "a tail, all kept": Chunks(rows=8, num=3, tail=5, kept=3, tokens=30),
    "a tail, some kept": Chunks(rows=8, num=3, tail=5, kept=2, tokens=12),
}
all_chunks = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)


def inputs(dtype=jnp.float32, scale=1.0):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(scale * rng.normal(size=(ROWS, TIME, EMBED)), dtype)
    weight = jnp.asarray(rng.normal(size=(VOCAB, EMBED)), dtype)
    targets = jnp.asarray(rng.integers(0, VOCAB, (ROWS, TIME)), jnp.int32)
    return hidden, weight, targets


def cotangent():
    return jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, TIME)), jnp.float32)


def plain(hidden, weight, targets, temperature=TEMPERATURE):
    log_p = jax.nn.log_softmax(hidden @ weight.T / temperature)
    fixed = jax.lax.stop_gradient(log_p)
    return jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0], -jnp.sum(jnp.exp(fixed) * fixed, -1)


def chunked(hidden, weight, targets, *, chunks, shards=WHOLE):
    """token_logprobs in chunks of the test's choice: real budgets would cut an array this small nowhere."""
    with mock.patch.object(logprobs, "plan_chunks", return_value=chunks):
        return token_logprobs(hidden, weight, targets, temperature=TEMPERATURE, logits_mib=1, shards=shards)


@partial(jax.jit, static_argnames="chunks")
def with_gradients(hidden, weight, targets, cotangents, chunks):
    """(logprobs, entropy), (gradient of hidden, of weight); without chunks those of the plain softmax."""
    function = partial(chunked, chunks=chunks) if chunks else plain
    outputs, vjp = jax.vjp(lambda h, w: function(h, w, targets), hidden, weight)
    return outputs, vjp(cotangents)


def of_logprobs():
    return cotangent(), jnp.zeros((ROWS, TIME))


def close(got, expected, tolerance=1e-5):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


@all_chunks
def test_logprobs_and_entropy_equal_the_plain_softmax(chunks):
    got, _ = with_gradients(*inputs(), of_logprobs(), chunks)
    expected, _ = with_gradients(*inputs(), of_logprobs(), None)
    close(got, expected)


@all_chunks
def test_gradients_equal_those_of_the_plain_softmax(chunks):
    _, got = with_gradients(*inputs(), of_logprobs(), chunks)
    _, expected = with_gradients(*inputs(), of_logprobs(), None)
    close(got, expected)


@pytest.mark.parametrize("name", ["one chunk", "a tail, all kept", "a tail, some kept"])
def test_logprobs_are_the_same_where_no_gradient_is_asked_for(name):
    alone = jax.jit(partial(chunked, chunks=CHUNKS[name]))(*inputs())
    close(alone, with_gradients(*inputs(), of_logprobs(), CHUNKS[name])[0], 1e-6)


@all_chunks
def test_entropy_carries_no_gradient(chunks):
    _, grads = with_gradients(*inputs(), (jnp.zeros((ROWS, TIME)), cotangent()), chunks)
    assert not any(np.any(grad) for grad in grads)


@all_chunks
def test_equal_logits_have_the_entropy_and_logprob_of_a_uniform_distribution(chunks):
    _, weight, targets = inputs()
    (got, entropy), _ = with_gradients(jnp.zeros((ROWS, TIME, EMBED)), weight, targets, of_logprobs(), chunks)
    np.testing.assert_allclose(entropy, np.log(VOCAB), rtol=1e-6)
    np.testing.assert_allclose(got, -np.log(VOCAB), rtol=1e-6)


@all_chunks
def test_one_token_worked_out_by_hand(chunks):
    """Logit x at token 3, 0 at the other 28: p(3) = e^x / (e^x + 28), and d logprob(3) / d x = 1 - p(3)."""
    weight = jnp.zeros((VOCAB, EMBED)).at[3, 0].set(1.0)
    hidden = jnp.zeros((ROWS, TIME, EMBED)).at[:, :, 0].set(1.0)
    targets = jnp.full((ROWS, TIME), 28, jnp.int32).at[0, 0].set(3)
    cotangents = jnp.zeros((ROWS, TIME)).at[0, 0].set(1.0), jnp.zeros((ROWS, TIME))
    (got, entropy), (_, grad) = with_gradients(hidden, weight, targets, cotangents, chunks)
    x = 1 / TEMPERATURE
    p = np.exp(x) / (np.exp(x) + 28)
    np.testing.assert_allclose(got[0, :2], [np.log(p), np.log(p) - x], rtol=1e-6)
    np.testing.assert_allclose(entropy, x - np.log(p) - p * x, rtol=1e-6)
    np.testing.assert_allclose(grad[3, 0], (1 - p) * x, rtol=1e-5)
    np.testing.assert_allclose(grad[28, 0], -p / np.exp(x) * x, rtol=1e-5)


@all_chunks
def test_huge_logits_give_finite_values_and_gradients(chunks):
    """Logits up to 1e4 either way: the softmax is one-hot, the likeliest token has logprob and entropy 0."""
    hidden, weight, _ = inputs(scale=3000.0)
    logits = hidden @ weight.T / TEMPERATURE
    assert float(jnp.max(logits)) > 1e4 and float(jnp.min(logits)) < -1e4
    likeliest = jnp.argmax(logits, -1).astype(jnp.int32)
    (value, entropy), got = with_gradients(hidden, weight, likeliest, of_logprobs(), chunks)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(entropy, 0.0, atol=1e-6)
    np.testing.assert_allclose(got[0], 0.0, atol=1e-6)
    unlikeliest = jnp.argmin(logits, -1).astype(jnp.int32)
    outputs, got = with_gradients(hidden, weight, unlikeliest, of_logprobs(), chunks)
    assert all(np.all(np.isfinite(array)) for array in (*outputs, *got))
    # d hidden = (W[target] - W[likeliest]) cotangent / temperature
    expected = (weight[unlikeliest] - weight[likeliest]) * cotangent()[:, :, None] / TEMPERATURE
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["one chunk", "a tail, some kept"])
def test_bfloat16_products_give_float32_logprobs_and_gradients_in_the_dtypes_of_their_arrays(name, weight_dtype):
    hidden, weight, targets = inputs(jnp.bfloat16)
    exact = (hidden.astype(jnp.float32), weight.astype(jnp.float32))
    outputs, got = with_gradients(hidden, weight.astype(weight_dtype), targets, of_logprobs(), CHUNKS[name])
    expected_outputs, expected = with_gradients(*exact, targets, of_logprobs(), None)
    close(outputs, expected_outputs)  # a product of two bfloat16 numbers is exact in float32
    assert [grad.dtype for grad in got] == [jnp.bfloat16, weight_dtype]
    close([grad.astype(jnp.float32) for grad in got], expected, 3e-2)


def test_products_take_bfloat16_and_give_float32_in_both_passes():
    """Read from the program: XLA's CPU compiler sums in float32 whatever it is told, a GPU's does not."""
    chunks = CHUNKS["a tail"]
    program = jax.make_jaxpr(partial(with_gradients, chunks=chunks))(*inputs(jnp.bfloat16), of_logprobs())
    products = re.findall(r":(\w+)\[[0-9,]*\] = dot_general\[(.*?)\]\s+\w+ \w+\n", str(program), re.DOTALL)
    assert len(products) >= 8  # logits; logits, d hidden, d weight: of a chunk and of the tail
    assert {dtype for dtype, _ in products} == {"f32"}
    assert all("preferred_element_type=float32" in settings for _, settings in products)


def run(hidden, weight, targets, logits_mib=1):
    return token_logprobs(hidden, weight, targets, temperature=1.0, logits_mib=logits_mib, shards=WHOLE)


def test_a_budget_in_mib_gives_the_plain_softmax():
    """1,024 tokens x 1,000 words are 3.9 MiB of logits: cut by a budget of 1 MiB, whole in one of 4."""
    rng = np.random.default_rng(2)
    hidden = jnp.asarray(rng.normal(size=(2, 512, 4)), jnp.float32)
    weight, targets = jnp.asarray(rng.normal(size=(1000, 4)), jnp.float32), jnp.asarray(rng.integers(0, 1000, (2, 512)))
    for logits_mib in (1, 4):
        close(jax.jit(run, static_argnums=3)(hidden, weight, targets, logits_mib), plain(hidden, weight, targets, 1.0))


@pytest.mark.parametrize(
    ("num_tokens", "vocab_rows", "embed", "logits_mib"),
    [
        (1024, 151936, 5120, 64),
        (40960, 151936, 5120, 512),
        (1024, 18992, 5120, 64),
        (512, 1009, 64, 1),
        (7, 3, 2, 1),
        (1 << 19, 151936, 5120, 1),
        (1024, 151936, 5120, 1),
        (81920, 151936, 5120, 64),
    ],
)
def test_chunks_cover_the_vocabulary_once_and_stay_in_the_budget(num_tokens, vocab_rows, embed, logits_mib):
    chunks = plan_chunks(num_tokens=num_tokens, vocab_rows=vocab_rows, embed=embed, logits_mib=logits_mib)
    budget = logits_mib * 2**18
    assert chunks.rows * chunks.num + chunks.tail == vocab_rows and 0 <= chunks.tail < chunks.rows
    computing = 0 if chunks.kept == chunks.num else 1
    assert (chunks.kept + computing) * chunks.rows * num_tokens <= budget or (chunks.kept, chunks.rows) == (0, 1)
    assert chunks.rows * embed <= budget and chunks.tokens * embed <= budget


def test_logits_that_all_fit_are_all_kept():
    chunks = plan_chunks(num_tokens=1024, vocab_rows=18992, embed=5120, logits_mib=75)  # 74.2 MiB
    assert chunks.kept == chunks.num


def test_few_logits_are_not_kept_at_all():
    assert plan_chunks(num_tokens=1024, vocab_rows=151936, embed=5120, logits_mib=64).kept == 0


FSDP, TENSOR = 4, 2


def over_devices() -> VocabShards:
    return VocabShards(
        gather=lambda rows, dtype: jax.lax.all_gather(rows.astype(dtype), "fsdp", axis=1, tiled=True),
        scatter=lambda grad: jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=1, tiled=True),
        first_row=lambda num_rows: jax.lax.axis_index("tensor") * num_rows,
        all_max=lambda array: jax.lax.pmax(array, "tensor"),
        all_sum=lambda array: jax.lax.psum(array, "tensor"),
    )


def on_eight_devices(hidden, weight, targets, cotangents, chunks):
    """(logprobs, entropy), (d hidden, d weight): rows over fsdp, vocabulary over tensor, embed over fsdp."""
    mesh = jax.make_mesh((FSDP, TENSOR), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows, shard = P("fsdp"), P("tensor", "fsdp")

    @partial(jax.shard_map, mesh=mesh, in_specs=(rows, shard, rows, rows), out_specs=(rows, rows, rows, shard),
             check_vma=False)  # fmt: skip
    def local(hidden, weight, targets, cotangents):
        function = partial(chunked, chunks=chunks, shards=over_devices())
        outputs, vjp = jax.vjp(lambda h, w: function(h, w, targets), hidden, weight)
        return *outputs, *vjp((cotangents, jnp.zeros_like(cotangents)))

    outputs = jax.jit(local)(hidden, weight, targets, cotangents)
    return outputs[:2], outputs[2:]


@pytest.mark.parametrize("kept", [0, 3])
def test_a_vocabulary_over_eight_devices_gives_what_one_device_gives(kept):
    chunks = Chunks(rows=4, num=3, tail=3, kept=kept, tokens=5)  # of the 15 rows a tensor shard has
    rng = np.random.default_rng(3)
    hidden = jnp.asarray(rng.normal(size=(FSDP, 6, 8)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(30, 8)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 30, (FSDP, 6)), jnp.int32)
    cotangents = jnp.asarray(rng.normal(size=(FSDP, 6)), jnp.float32)
    outputs, grads = on_eight_devices(hidden, weight, targets, cotangents, chunks)
    both = (cotangents, jnp.zeros_like(cotangents))
    whole = Chunks(rows=30, num=1, tail=0, kept=1, tokens=24)
    expected_outputs, expected = with_gradients(hidden, weight, targets, both, whole)
    close(outputs, expected_outputs)
    close(grads, expected)


def test_weights_are_rounded_before_they_travel_and_their_gradient_is_scattered_in_float32():
    shapes = [((FSDP, 6, 8), jnp.bfloat16), ((30, 8), jnp.float32), ((FSDP, 6), jnp.int32), ((FSDP, 6), jnp.float32)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    jaxpr = str(jax.make_jaxpr(partial(on_eight_devices, chunks=Chunks(15, 1, 0, 0, 6)))(*arguments))
    gathers = [line for line in jaxpr.splitlines() if "= all_gather[" in line]
    scatters = [line for line in jaxpr.splitlines() if "= reduce_scatter[" in line]
    assert gathers and all(":bf16[15,8]" in line for line in gathers)
    assert scatters and all(":f32[15,2]" in line for line in scatters)
