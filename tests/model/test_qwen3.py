"""The forward pass: packing, causality, parameters."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import make_architecture

from nouscoder_jax.config import UserError
from nouscoder_jax.model import qwen3

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = make_architecture(
    intermediate_size=48, rope_theta=1e4, tie_word_embeddings=False, attention_bias=True, max_position_embeddings=128
)


@pytest.fixture(scope="module")
def model():
    """Weights large enough that every branch matters."""
    fresh = jax.jit(partial(qwen3.init, TINY))(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x) + rng.normal(0, 0.2, x.shape).astype(np.float32), fresh)


@partial(jax.jit, static_argnames=("remat", "compute_dtype"))  # op by op this would compile a hundred kernels
def forward(model, tokens, positions, segment_ids, *, remat="none", compute_dtype="float32"):
    return qwen3.forward(
        model, tokens, positions, segment_ids, compute_dtype=compute_dtype, attention="reference", remat=remat
    )


def packed_row():
    """Segments of 5 and 7 tokens, then 4 of padding."""
    tokens = np.random.default_rng(0).integers(0, 64, (1, 16)).astype(np.int32)
    segment_ids = np.asarray([[1] * 5 + [2] * 7 + [0] * 4], np.int32)
    positions = np.asarray([[*range(5), *range(7), *range(4)]], np.int32)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segment_ids)


def test_packed_rows_equal_unpacked_rows(model):
    tokens, positions, segment_ids = packed_row()
    packed = forward(model, tokens, positions, segment_ids)
    for start, end in [(0, 5), (5, 12)]:
        alone = np.zeros((3, 1, 16), np.int32)  # the segment at the start of a row of its own, then padding
        alone[:, 0, : end - start] = np.stack([tokens, positions, segment_ids])[:, 0, start:end]
        unpacked = forward(model, *alone)
        np.testing.assert_allclose(packed[:, start:end], unpacked[:, : end - start], atol=1e-5)


def test_a_position_depends_on_earlier_positions_of_its_own_segment_only(model):
    tokens, positions, segment_ids = packed_row()
    embedded = model.embed_tokens[...][tokens[0]]

    def hidden_at(inputs, position):
        own = jax.tree.map(lambda x: x, model)
        own.embed_tokens = nnx.Param(inputs)  # one row of the table a position: its gradient is that position's
        return forward(own, jnp.arange(16)[None], positions, segment_ids)[0, position].sum()

    sensitivities = jax.jit(jax.vmap(jax.grad(hidden_at), (None, 0)))(embedded, jnp.arange(12))
    depends = np.abs(np.asarray(sensitivities)).max(-1) > 0
    segments = np.asarray(segment_ids)[0]
    expected = (segments[:12, None] == segments[None, :]) & (np.arange(12)[:, None] >= np.arange(16)[None, :])
    np.testing.assert_array_equal(depends, expected)


def test_rematerialised_layers_give_the_same_gradient(model):
    batch = packed_row()

    def loss(model, remat):
        return jnp.square(forward(model, *batch, remat=remat)).mean()

    plain, remat = (jax.jit(jax.grad(partial(loss, remat=r)))(model) for r in ("none", "layer"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), plain, remat)


def test_every_leaf_of_the_model_is_an_nnx_param():
    leaves = jax.tree.leaves(
        jax.eval_shape(partial(qwen3.init, TINY), jax.random.key(0)), is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    assert leaves and all(type(leaf) is nnx.Param for leaf in leaves)


def test_param_names_leave_out_the_trailing_value():
    abstract = jax.eval_shape(partial(qwen3.init, TINY), jax.random.key(0))
    names = {qwen3.param_name(path) for path, _ in jax.tree.leaves_with_path({"mu": abstract})}
    assert {"mu/embed_tokens", "mu/lm_head", "mu/layers/attention/q_proj", "mu/layers/mlp_norm"} <= names
    assert not any(name.endswith("value") for name in names)


def test_the_14b_model_has_14_768_million_parameters_and_costs_nothing_to_describe():
    size = dict(vocab_size=151936, hidden_size=5120, intermediate_size=17408, num_layers=40, num_heads=40)
    architecture = dataclasses.replace(TINY, **size, num_kv_heads=8, head_dim=128, attention_bias=False)
    abstract = jax.eval_shape(partial(qwen3.init, architecture), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == 14_768_307_200


def test_bfloat16_compute_stays_near_float32(model):
    batch = packed_row()
    exact = forward(model, *batch)
    rough = forward(model, *batch, compute_dtype="bfloat16")
    assert rough.dtype == jnp.bfloat16
    assert float(jnp.abs(exact - rough.astype(jnp.float32)).mean()) < 0.05 * float(jnp.abs(exact).mean())


HF_CONFIG = TINY.to_hf()


def test_an_architecture_survives_config_json():
    assert qwen3.Architecture.from_hf(HF_CONFIG) == TINY


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": None}, "model_type"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "llama3"),
        ({"rope_theta": None, "rope_parameters": None}, "rope_theta"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ],
)
def test_a_config_json_that_is_not_supported_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        qwen3.Architecture.from_hf(HF_CONFIG | change)
