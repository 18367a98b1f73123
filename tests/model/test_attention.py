"""Attention: `reference` is exact, walks only what it must and leaks nothing; what a machine cannot run is refused."""

from __future__ import annotations

import re
import typing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.config import ModelConfig, UserError
from nouscoder_jax.model import attention

pytestmark = pytest.mark.usefixtures("quick_compilation")


def naive(q, k, v, segment_ids):
    """Returns attention by its definition; 0 at padding."""
    time, group = q.shape[1], q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bqnh,bknh->bnqk", q, k, preferred_element_type=jnp.float32) * q.shape[3] ** -0.5
    seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & jnp.tri(time, dtype=bool)[None]
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bnqk,bknh->bqnh", weights, v, preferred_element_type=jnp.float32)
    return jnp.where((segment_ids > 0)[:, :, None, None], out, 0)


def row(*lengths, time):
    """Segments of these lengths, then padding."""
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(ids, (0, time - len(ids))).astype(np.int32)


def qkv(rows, time, heads, kv_heads, head_dim, dtype="float32"):
    shapes = [(rows, time, n, head_dim) for n in (heads, kv_heads, kv_heads)]
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]


def value_and_gradients(attend, arrays, segment_ids):
    weights = jax.random.normal(jax.random.key(1), arrays[0].shape)  # of padding too: its gradient must be 0

    @jax.jit  # a new function: block lengths are no argument, so nothing may come from the cache
    def run(*arrays):
        out, pullback = jax.vjp(lambda *arrays: attend(*arrays, segment_ids), *arrays)
        return out, pullback(weights.astype(out.dtype))

    return run(*arrays)


SHORT = [row(13, 27, time=60), row(60, time=60)]
ALIGNED = [row(64, 128, 64, 320, time=640), row(1, 63, 576, time=640), row(3, time=640), row(100, 41, 9, time=640)]
UNALIGNED = [row(time=530), row(529, time=530), row(100, 41, 330, time=530)]  # a block holds the end of a row, too


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "head_dim"), [(SHORT, 4, 2, 8), (ALIGNED, 4, 2, 8), (UNALIGNED, 5, 1, 24)]
)
def test_values_and_gradients_equal_naive_attention(rows, heads, kv_heads, head_dim):
    segment_ids = jnp.asarray(np.stack(rows))
    arrays = qkv(*segment_ids.shape, heads, kv_heads, head_dim)
    ours = value_and_gradients(attention.reference, arrays, segment_ids)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), ours, value_and_gradients(naive, arrays, segment_ids))


def test_bfloat16_inputs_stay_near_float32():
    segment_ids = jnp.asarray(np.stack(UNALIGNED))
    arrays = qkv(*segment_ids.shape, 2, 2, 16, dtype="bfloat16")
    rough = value_and_gradients(attention.reference, arrays, segment_ids)
    exact = value_and_gradients(naive, [a.astype(jnp.float32) for a in arrays], segment_ids)
    for ours, theirs in zip(jax.tree.leaves(rough), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert float(jnp.abs(ours.astype(jnp.float32) - theirs).mean()) < 0.01 * float(jnp.abs(theirs).mean())


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 8 tokens, in rows of any length."""
    monkeypatch.setattr(attention, "DIRECT_TOKENS", 0)
    monkeypatch.setattr(attention, "BLOCK_TOKENS", 8)


@pytest.mark.parametrize("lengths", [(8, 16, 11), (5, 7, 1, 20), (37,)])
def test_gradients_show_that_a_token_sees_its_own_segment_up_to_itself_and_nothing_else(lengths, small_blocks):
    segment_ids = jnp.asarray([row(*lengths, time=40), row(20, time=40)])
    arrays = qkv(2, 40, 2, 1, 4)

    @jax.jit
    def sensitivities():
        def of(token):
            def out(*arrays):
                return jnp.square(attention.reference(*arrays, segment_ids)[0, token]).sum()

            return jax.grad(out, argnums=(0, 1, 2))(*arrays)

        return jax.lax.map(of, jnp.arange(40))

    d_q, d_k, d_v = sensitivities()
    depends = {name: np.abs(np.asarray(g)).max((-1, -2)) > 0 for name, g in (("q", d_q), ("k", d_k), ("v", d_v))}
    ids = np.asarray(segment_ids[0])
    seen = (ids[:, None] == ids[None, :]) & np.tri(40, dtype=bool) & (ids > 0)[:, None]
    np.testing.assert_array_equal(depends["v"][:, 0], seen)
    others = ~np.eye(40, dtype=bool)  # a key of its own may cancel: the only one has weight 1 whatever it is
    np.testing.assert_array_equal(depends["k"][:, 0] & others, seen & others)
    assert not (depends["q"][:, 0] & others).any()
    for name in depends:
        assert not depends[name][:, 1].any(), "the other row"


def test_blocks_of_keys_that_no_query_sees_are_not_touched(small_blocks):
    segment_ids = jnp.asarray([row(8, 4, 28, time=48)])
    q, k, v = qkv(1, 48, 2, 1, 4)
    v = v.at[:, :8].set(jnp.nan)  # 0 x NaN is NaN: only leaving it out keeps it out
    out = np.asarray(jax.jit(lambda *arrays: attention.reference(*arrays))(q, k, v, segment_ids))
    assert np.isnan(out[:, :8]).all() and np.isfinite(out[:, 8:]).all()


def test_padding_gives_zero():
    for time in (40, 600):
        segment_ids = jnp.asarray([row(30, time=time)])
        out = jax.jit(attention.reference)(*qkv(1, time, 2, 1, 4), segment_ids)
        assert np.abs(out[:, :30]).min() > 0 and not np.asarray(out[:, 30:]).any()


def test_scores_that_would_overflow_are_exact():
    segment_ids = jnp.asarray([row(400, 200, time=600)])
    q, k, v = qkv(1, 600, 2, 1, 8)
    ours, exact = (jax.jit(attend)(q * 60, k, v, segment_ids) for attend in (attention.reference, naive))
    np.testing.assert_allclose(ours, exact, atol=1e-4)


def test_neither_program_nor_memory_grows_with_the_square_of_time():
    def lowered(time):
        shapes = [jax.ShapeDtypeStruct((1, time, heads, 8), jnp.float32) for heads in (2, 1, 1)]
        ids = jax.ShapeDtypeStruct((1, time), jnp.int32)

        def loss(q, k, v, ids):
            return attention.reference(q, k, v, ids).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, ids).as_text()

    short, long = lowered(1024), lowered(16384)
    assert len(short.splitlines()) == len(long.splitlines())
    sizes = [
        np.prod([int(n) for n in re.findall(r"(\d+)x", shape)]) for shape in re.findall(r"tensor<([\dx]+)f32", long)
    ]
    assert max(sizes) == 16384 * 2 * 8  # the queries themselves


def test_the_config_offers_exactly_the_implementations_that_exist():
    offered = typing.get_args(typing.get_type_hints(ModelConfig)["attention"])
    assert set(offered) == set(attention.ATTENTION)


GPU_14B = dict(platform="gpu", compute_dtype="bfloat16", head_dim=128, num_heads=40, num_kv_heads=8, packed=False)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reference", {"platform": "cpu", "compute_dtype": "float32", "packed": True}),
        ("reference", {"platform": "tpu", "head_dim": 250}),
        ("pallas", {"packed": True}),
        ("pallas", {"platform": "cuda", "head_dim": 64}),
        ("cudnn", {}),
        ("cudnn", {"head_dim": 8, "compute_dtype": "float16"}),
    ],
)
def test_what_is_right_is_allowed(name, change, monkeypatch):
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    attention.check_attention(name, **GPU_14B | change)


@pytest.mark.parametrize(
    ("name", "change", "got", "fix"),
    [
        ("flash", {}, "'flash'", "reference, cudnn, pallas"),
        ("reference", {"num_kv_heads": 3}, "40 heads over 3 kv heads", "reference"),
        ("pallas", {"platform": "cpu"}, "platform cpu", "reference"),
        ("pallas", {"head_dim": 256}, "head_dim 256", "reference"),
        ("cudnn", {"platform": "cpu"}, "platform cpu", "reference"),
        ("cudnn", {"packed": True}, "packed rows", "pallas"),
        ("cudnn", {"compute_dtype": "float32"}, "compute_dtype float32", "pallas"),
        ("cudnn", {"head_dim": 136}, "head_dim 136", "reference"),
        ("cudnn", {"head_dim": 20}, "head_dim 20", "reference"),
    ],
)
def test_what_device_or_shapes_do_not_allow_is_refused_with_a_fix(name, change, got, fix, monkeypatch):
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    with pytest.raises(UserError) as refused:
        attention.check_attention(name, **GPU_14B | change)
    message = str(refused.value)
    assert got in message and message.endswith(fix) and "\n" not in message and "model.attention" in message


def test_cudnn_is_refused_where_its_library_is_missing(monkeypatch):
    monkeypatch.setattr(attention, "has_cudnn", lambda: False)
    with pytest.raises(UserError, match="without cuDNN"):
        attention.check_attention("cudnn", **GPU_14B)


def test_what_cudnn_is_asked_for_is_reference_on_unpacked_rows(monkeypatch):
    """XLA's implementation of the same jax function stands in for cuDNN, which only a GPU runs."""
    asked = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: asked(*a, **k | {"implementation": "xla"}))
    segment_ids = jnp.asarray([row(60, time=60), row(33, time=60), row(time=60)])
    arrays = qkv(3, 60, 4, 2, 16)
    theirs = value_and_gradients(attention.cudnn, arrays, segment_ids)
    ours = value_and_gradients(attention.reference, arrays, segment_ids)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), theirs, ours)
