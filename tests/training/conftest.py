"""Config and batch for the model of 30 thousand parameters."""

import numpy as np
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(quick_compilation):
    """Here nearly all time is compilation."""


@pytest.fixture(scope="session")
def make_config():
    """configs/tiny.py with other fields in some sections: make_config(loss={"name": "gspo"})."""
    import small

    quick = {
        "data": {"max_prompt_tokens": 8},
        "rollout": {"max_completion_tokens": 24},
        "experience": {"row_tokens": 32, "rows_per_micro_batch": 8},
        "model": {"logits_mib": 1},
        # A large epsilon makes Adam's first step follow the gradient; else it is the sign of rounding errors.
        "optimizer": {"learning_rate": 1e-2, "warmup_updates": 0, "epsilon": 1.0},
    }

    def make(**sections):
        return small.make_config(**sections | {name: quick[name] | sections.get(name, {}) for name in quick})

    return make


@pytest.fixture(scope="session")
def batch():
    """16 rows of 32 tokens: two segments of random lengths and padding in each row."""
    from nouscoder_jax.types import Batch

    rng = np.random.default_rng(0)
    rows, time = 16, 32
    tokens = rng.integers(1, 64, (rows, time)).astype(np.int32)
    first, second = rng.integers(6, 16, rows), rng.integers(6, 16, rows)
    index = np.arange(time)[None]
    segment_ids = np.where(index < first[:, None], 1, np.where(index < (first + second)[:, None], 2, 0))
    positions = np.where(segment_ids == 2, index - first[:, None], index) * (segment_ids > 0)
    last = (index == first[:, None] - 1) | (index == (first + second)[:, None] - 1)
    advantages = np.where(segment_ids == 1, rng.normal(size=(rows, 1)), rng.normal(size=(rows, 1))) * (segment_ids > 0)
    return Batch(
        tokens=np.where(segment_ids > 0, tokens, 0).astype(np.int32),
        targets=np.where((segment_ids > 0) & ~last, np.roll(tokens, -1, axis=1), 0).astype(np.int32),
        positions=positions.astype(np.int32),
        segment_ids=segment_ids.astype(np.int32),
        loss_mask=(segment_ids > 0) & ~last & (positions >= 2),
        on_policy=np.zeros((rows, time), bool),
        behavior_logprobs=rng.normal(-4.2, 0.2, (rows, time)).astype(np.float32),
        advantages=advantages.astype(np.float32),
    )


@pytest.fixture(scope="session")
def model(architecture):
    """A model of NumPy arrays: matrices normal with std 0.02, norms 1 (drawn without compiling anything)."""
    import jax

    from nouscoder_jax.model.weights import abstract_model

    rng = np.random.default_rng(0)
    fresh = {True: lambda shape: np.ones(shape), False: lambda shape: rng.normal(0, 0.02, shape)}
    return jax.tree.map_with_path(
        lambda path, leaf: fresh["norm" in str(path)](leaf.shape).astype(np.float32), abstract_model(architecture)
    )


@pytest.fixture(scope="session")
def start(architecture, model):
    """start(config) -> (mesh, fresh state): the same weights whatever the mesh."""
    import jax

    from nouscoder_jax import sharding
    from nouscoder_jax.training.optimizer import make_optimizer
    from nouscoder_jax.training.state import from_model

    def make(config):
        mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
        return mesh, from_model(model, architecture, make_optimizer(config.optimizer), mesh=mesh)

    return make
