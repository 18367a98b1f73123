"""Warm-up, decay and clipping: numbers by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from small import make_config

from nouscoder_jax.training.optimizer import make_optimizer, make_schedule
from nouscoder_jax.training.state import named_leaves

CONFIG = make_config(
    optimizer={
        "learning_rate": 0.1, "warmup_updates": 4, "beta1": 0.9, "beta2": 0.95, "moments": "float32",
        "epsilon": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0, "max_skipped": 3,
    }
).optimizer  # fmt: skip


def test_learning_rate_rises_in_equal_steps_and_then_stays():
    schedule = make_schedule(CONFIG)
    np.testing.assert_allclose([schedule(n) for n in (0, 1, 3, 4, 99)], [0.025, 0.05, 0.1, 0.1, 0.1], rtol=1e-6)


def test_without_warmup_the_first_update_has_the_full_rate():
    assert make_schedule(dataclasses.replace(CONFIG, warmup_updates=0))(0) == np.float32(0.1)


@pytest.fixture(scope="module")
def first_update(model):
    def run(gradient, **changes):
        optimizer = make_optimizer(dataclasses.replace(CONFIG, warmup_updates=0, **changes))
        grads = jax.tree.map(lambda leaf: np.full(leaf.shape, gradient, np.float32), model)
        updates, _ = jax.jit(lambda g, m: optimizer.update(g, optimizer.init(m), m))(grads, model)
        return named_leaves(updates), named_leaves(model)

    return run


def test_adam_moves_every_weight_by_the_learning_rate_at_first(first_update):
    updates, _ = first_update(0.5)
    for update in updates.values():
        np.testing.assert_allclose(update, np.full(update.shape, -0.1), rtol=1e-3)


def test_weight_decay_touches_matrices_of_layers_only(first_update):
    updates, weights = first_update(0.0, weight_decay=0.5)
    assert {name for name, update in updates.items() if np.any(update)} == {
        "layers/attention/q_proj",
        "layers/attention/k_proj",
        "layers/attention/v_proj",
        "layers/attention/o_proj",
        "layers/mlp/gate_proj",
        "layers/mlp/up_proj",
        "layers/mlp/down_proj",
    }
    np.testing.assert_allclose(updates["layers/mlp/up_proj"], -0.05 * weights["layers/mlp/up_proj"], rtol=1e-5)


def test_moments_take_8_or_6_or_2_bytes_a_parameter():
    """A matrix of 256 x 384, large enough for optax to factor; the factors add (256 + 384) x 4 bytes."""
    taken = {}
    for moments in ("float32", "bfloat16", "factored"):
        optimizer = make_optimizer(dataclasses.replace(CONFIG, moments=moments))
        leaves = jax.tree.leaves(
            jax.eval_shape(optimizer.init, {"matrix": jax.ShapeDtypeStruct((256, 384), "float32")})
        )
        taken[moments] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.size > 1)
    assert taken == {"float32": 8 * 256 * 384, "bfloat16": 6 * 256 * 384, "factored": 2 * 256 * 384 + 4 * (256 + 384)}


def test_factored_moments_of_a_constant_gradient_give_adams_first_updates():
    """With one gradient of rank 1 over and over, row times column is the matrix and both decays are bias-corrected."""
    gradient = {"matrix": np.outer(np.linspace(1, 2, 128), np.linspace(1, 3, 130)).astype(np.float32) * 1e-3}
    updates = {}
    for moments in ("float32", "factored"):
        optimizer = make_optimizer(dataclasses.replace(CONFIG, moments=moments, max_grad_norm=1e9))
        state = optimizer.init(gradient)
        for _ in range(3):
            update, state = optimizer.update(gradient, state, gradient)
        updates[moments] = update["matrix"]
    np.testing.assert_allclose(updates["factored"], updates["float32"], rtol=0.01)  # a momentum in bfloat16
