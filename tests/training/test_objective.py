"""What a config's loss section makes of a micro-batch, and its bounds on drift."""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax import losses, mismatch
from nouscoder_jax.training.objective import make_objective
from nouscoder_jax.training.state import named_leaves
from nouscoder_jax.training.update import make_token_logprobs, make_update

CORRECTIONS = {
    "none": {},
    "truncated": {"max_ratio": 1.1},
    "icepop": {"min_ratio": 0.9, "max_ratio": 1.1},
    "sequence_rejection": {"min_ratio": 0.97, "max_ratio": 1.03},
    "decoupled": {},
}


@pytest.fixture(scope="module")
def logprobs(batch):
    rng = np.random.default_rng(3)
    return tuple(jnp.float32(batch.behavior_logprobs + rng.normal(0, 0.2, batch.tokens.shape)) for _ in range(2))


def corrected(make_config, name):
    bounds = {"min_ratio": 0.0, "max_ratio": 0.0} | CORRECTIONS[name]
    return make_config(loss={"old_logprobs": "recomputed", "correction": name, **bounds})


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_of_the_config_is_the_function_of_that_name(make_config, batch, logprobs, name):
    config, (now, old) = corrected(make_config, name), logprobs
    measured = make_objective(config, loss_name="grpo")(now, -now, old, jax.tree.map(jnp.asarray, batch))
    arrays, where, weights = (old, jnp.asarray(batch.behavior_logprobs)), jnp.asarray(batch.loss_mask), None
    match name:
        case "truncated":
            weights = mismatch.truncated_weights(*arrays, where=where, max_weight=1.1)
        case "icepop":
            weights = mismatch.icepop_weights(*arrays, where=where, min_weight=0.9, max_weight=1.1)
        case "decoupled":
            weights = mismatch.decoupled_weights(*arrays, where=where)
        case "sequence_rejection":
            where = mismatch.sequence_rejection_mask(
                *arrays, where=where, segment_ids=jnp.asarray(batch.segment_ids), min_ratio=0.97, max_ratio=1.03
            )
    expected, _ = losses.grpo_loss(
        now,
        old,
        jnp.asarray(batch.advantages),
        where=where,
        segment_ids=jnp.asarray(batch.segment_ids),
        importance_weights=weights,
        clip_low=config.loss.clip_low,
        clip_high=config.loss.clip_high,
    )
    np.testing.assert_allclose(measured.loss.value(), expected.value(), rtol=1e-5)
    assert float(measured.num_tokens) == batch.loss_mask.sum()
    rejected = float(measured.metrics["rejected_share"].value())
    assert (rejected > 0) == (name in ("icepop", "sequence_rejection")) and rejected < 1


def test_drift_compares_what_the_trainer_had_before_the_batch_with_the_engine(make_config, batch, logprobs):
    now, old = logprobs
    arrays = jax.tree.map(jnp.asarray, batch._replace(on_policy=batch.loss_mask & (batch.segment_ids == 2)))
    mask = {"all": batch.loss_mask, "same": np.asarray(arrays.on_policy)}
    for old_logprobs, trainers in (("recomputed", old), ("behavior", now)):
        config = make_config(loss={"old_logprobs": old_logprobs})
        metrics = make_objective(config, loss_name="dapo")(now, -now, old, arrays).metrics
        drift = np.abs(np.asarray(trainers) - batch.behavior_logprobs)
        np.testing.assert_allclose(metrics["drift_mean"].value(), drift[mask["all"]].mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["drift_max"].value(), drift[mask["all"]].max(), rtol=1e-5)
        np.testing.assert_allclose(metrics["on_policy_drift_mean"].value(), drift[mask["same"]].mean(), rtol=1e-5)
        np.testing.assert_allclose(metrics["on_policy_drift_max"].value(), drift[mask["same"]].max(), rtol=1e-5)
        share = mask["same"].sum() / mask["all"].sum()
        np.testing.assert_allclose(metrics["on_policy_share"].value(), share, rtol=1e-6)


@pytest.fixture(scope="module")
def agreeing(make_config, batch, start):
    """The batch as an engine without any drift would have sampled it."""
    mesh, state = start(make_config())
    logprobs = make_token_logprobs(make_config(), mesh)(state.model, batch, 2)
    return batch._replace(behavior_logprobs=logprobs, on_policy=batch.loss_mask)


@pytest.fixture(scope="module")
def bounded(make_config, architecture, start):
    """bounded(batch, axes) -> (leaves before, leaves after, metrics) with bounds of 0.01 and 0.3 nats."""

    @functools.cache
    def compiled(axes):
        config = make_config(
            loss={"max_drift_mean": 0.01, "max_drift": 0.3},
            mesh=dict(zip(("data", "fsdp", "tensor"), axes, strict=True)),
        )
        mesh, _ = start(config)
        return config, make_update(config, architecture, mesh, loss_name="dapo")

    def bounded(batch, axes=(1, 1, 1)):
        config, update = compiled(axes)
        _, state = start(config)
        before = named_leaves(jax.device_get(state))
        state, metrics = update(state, batch, 2)
        return before, named_leaves(jax.device_get(state)), metrics

    return bounded


def changed(before, after):
    return [name for name in before if not np.array_equal(before[name], after[name])]


def test_an_update_is_taken_where_engine_and_trainer_agree(bounded, agreeing):
    before, after, metrics = bounded(agreeing)
    assert "drift_exceeded_at" not in metrics and changed(before, after)
    assert metrics["on_policy_drift_max"] < 1e-5 and metrics["on_policy_share"] == 1.0


@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("row", [3, 13])
def test_one_token_beyond_the_bound_changes_nothing(bounded, agreeing, axes, row):
    time = int(np.flatnonzero(agreeing.loss_mask[row])[-1])
    drifted = agreeing.behavior_logprobs.copy()
    drifted[row, time] -= 0.5
    before, after, metrics = bounded(agreeing._replace(behavior_logprobs=drifted), axes)
    assert metrics["drift_exceeded_at"] == row * 32 + time
    assert metrics["on_policy_drift_max"] == pytest.approx(0.5, rel=1e-4)
    assert changed(before, after) == []


def test_a_small_drift_everywhere_exceeds_the_bound_of_the_mean(bounded, agreeing):
    _, _, metrics = bounded(agreeing._replace(behavior_logprobs=agreeing.behavior_logprobs + np.float32(0.02)))
    assert "drift_exceeded_at" in metrics and metrics["on_policy_drift_mean"] == pytest.approx(0.02, rel=1e-3)


def test_nan_exceeds_any_bound(bounded, agreeing):
    drifted = agreeing.behavior_logprobs.copy()
    row, time = np.argwhere(agreeing.loss_mask)[7]
    drifted[row, time] = np.nan
    before, after, metrics = bounded(agreeing._replace(behavior_logprobs=drifted))
    assert metrics["drift_exceeded_at"] == row * 32 + time and changed(before, after) == []


def test_drift_of_older_weights_has_no_bound(bounded, agreeing):
    older = agreeing._replace(
        behavior_logprobs=agreeing.behavior_logprobs - np.float32(0.7), on_policy=np.zeros_like(agreeing.loss_mask)
    )
    before, after, metrics = bounded(older)
    assert "drift_exceeded_at" not in metrics and changed(before, after)
    assert metrics["on_policy_share"] == 0.0 and metrics["drift_mean"] == pytest.approx(0.7, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correction": "icepop", "old_logprobs": "behavior"}, "corrects recomputed old_logprobs"),
        ({"correction": "truncated", "old_logprobs": "recomputed"}, "truncated takes 0 and a max_ratio above 0"),
        ({"correction": "icepop", "old_logprobs": "recomputed", "min_ratio": 3.0, "max_ratio": 2.0}, "not above"),
        ({"correction": "none", "max_ratio": 2.0}, "none takes 0 and 0"),
        ({"max_drift": -1.0}, "loss.max_drift is -1.0; use 0"),
    ],
)
def test_bounds_that_a_correction_does_not_take_are_refused(make_config, changes, message):
    loss = dataclasses.replace(make_config().loss, correction="none", min_ratio=0.0, max_ratio=0.0)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(loss, **changes)


ADDED = """
import dataclasses, sys
import jax, jax.numpy as jnp, numpy as np
import nouscoder_jax.config
assert nouscoder_jax.__file__.startswith(sys.argv[1]), nouscoder_jax.__file__
from pathlib import Path
from nouscoder_jax import cli, sharding
from nouscoder_jax.model.weights import abstract_model
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import from_model
from nouscoder_jax.training.update import make_update
from nouscoder_jax.types import Batch
import small

base = cli.load_config_file(Path(sys.argv[2]) / "configs/tiny.py")
config = small.change(
    cli.apply_overrides(base, ["--loss.name", "plain"]),
    data={"max_prompt_tokens": 8}, rollout={"max_completion_tokens": 8},
    experience={"row_tokens": 16, "rows_per_micro_batch": 2},
)
architecture = small.make_architecture()
mesh = sharding.make_mesh(config.mesh, devices=jax.devices()[:1])
rng = np.random.default_rng(0)
model = jax.tree.map(lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(np.float32), abstract_model(architecture))
ones = np.ones((2, 16), np.int32)
batch = Batch(
    tokens=ones, targets=ones, positions=np.arange(16, dtype=np.int32) * ones, segment_ids=ones, loss_mask=ones > 0,
    on_policy=ones < 0, behavior_logprobs=np.float32(-4.0 * ones), advantages=np.float32(2.0 * ones),
)
state = from_model(model, architecture, make_optimizer(config.optimizer), mesh=mesh)
update = make_update(config, architecture, mesh, loss_name=config.loss.name)
state, metrics = update(state, batch, 1, batch.behavior_logprobs)
print(config.loss.name, float(metrics["loss"]), int(jax.device_get(state.update_count)))
"""
PLAIN_LOSS = '''

def plain_loss(logprobs, old_logprobs, advantages, *, clip_low, where, segment_ids, importance_weights, entropy):
    """The mean of the advantages: no clip above and none of the other knobs."""
    return token_mean(advantages + 0.0 * logprobs, where=where), {}
'''


def test_a_new_objective_is_its_function_and_its_name_in_one_line(root, tmp_path):
    """In a copy of the package, where `--loss.name` then trains an update with it."""
    package = tmp_path / "nouscoder_jax"
    shutil.copytree(root / "nouscoder_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    knobs, functions = package / "config/policy.py", package / "losses.py"
    text = knobs.read_text(encoding="utf-8")
    assert text.count('"dapo"') == 1
    knobs.write_text(text.replace('"dapo"', '"dapo", "plain"'), encoding="utf-8")
    functions.write_text(functions.read_text(encoding="utf-8") + PLAIN_LOSS, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, root / "kernels", root / "tests"))),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    command = [sys.executable, "-c", ADDED, str(tmp_path), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == ["plain", "2.0", "1"], done.stderr
