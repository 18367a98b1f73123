"""`update`: the same result however the batch is split and wherever it runs."""

import functools

import jax
import numpy as np
import optax
import pytest

from nouscoder_jax import losses
from nouscoder_jax.logprobs import WHOLE, token_logprobs
from nouscoder_jax.model import qwen3
from nouscoder_jax.training.objective import LOSSES, metric_names
from nouscoder_jax.training.state import named_leaves
from nouscoder_jax.training.update import make_token_logprobs, make_update, make_update_on_mesh


@pytest.fixture(scope="module")
def run(architecture, batch, start):
    """run(config) -> (every leaf of the next state by name, metrics)."""

    @functools.cache  # most of this module's time is compilation
    def compiled(config, mesh, loss_name):
        return make_update(config, architecture, mesh, loss_name=loss_name)

    def run(config, *, num_micro_batches=2, num_updates=1, loss_name="dapo", batch=batch, old_logprobs=None):
        mesh, state = start(config)
        for _ in range(num_updates):
            state, metrics = compiled(config, mesh, loss_name)(state, batch, num_micro_batches, old_logprobs)
        return named_leaves(jax.device_get(state)), metrics

    run.compiled = compiled
    return run


def assert_same(left, right, *, atol):
    for (name, a), (_, b) in zip(left[0].items(), right[0].items(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, err_msg=name)
    assert left[1] == pytest.approx(right[1], rel=1e-5, abs=10 * atol)


def test_micro_batches_give_the_update_of_one_large_batch(run, make_config):
    whole = run(make_config(experience={"rows_per_micro_batch": 16}), num_micro_batches=1)
    assert_same(run(make_config()), whole, atol=1e-6)


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 8, 1)])
def test_a_sharded_update_equals_the_unsharded_one(run, make_config, axes):
    mesh = dict(zip(("data", "fsdp", "tensor"), axes, strict=True))
    assert_same(run(make_config(mesh=mesh)), run(make_config()), atol=1e-6)


def test_weights_and_moments_stay_sharded_by_the_table(run, make_config, batch, start):
    config = make_config(mesh={"data": 2, "fsdp": 2, "tensor": 2})
    mesh, state = start(config)
    before = named_leaves(state)
    state, _ = run.compiled(config, mesh, "dapo")(state, batch, 2)
    for name, leaf in named_leaves(state).items():
        assert leaf.sharding.is_equivalent_to(before[name].sharding, leaf.ndim), name
        assert len(leaf.sharding.device_set) == 8
    for name in ("model/layers/mlp/up_proj", "opt_state/1/mu/layers/mlp/up_proj"):
        assert named_leaves(state)[name].sharding.shard_shape((2, 32, 64)) == (2, 16, 32)


def test_micro_batches_past_the_given_number_have_no_part(run, make_config, batch):
    config = make_config()
    garbage = batch._replace(advantages=np.where(np.arange(16)[:, None] < 8, batch.advantages, np.float32(1e3)))
    assert_same(run(config, num_micro_batches=1, batch=garbage), run(config, num_micro_batches=1), atol=0.0)


def test_an_empty_batch_leaves_the_weights_alone(run, make_config, start):
    config = make_config()
    leaves, metrics = run(config, num_micro_batches=0)
    _, fresh = start(config)
    for name, leaf in named_leaves(fresh.model).items():
        np.testing.assert_array_equal(leaves[f"model/{name}"], leaf)
    assert metrics["num_tokens"] == 0.0 and all(np.isfinite(value) for value in metrics.values())


def test_update_equals_a_plain_optax_step(run, make_config, model, batch):
    """The whole batch at once, full softmax, nothing of training/ but the numbers."""
    config, batch = make_config(), jax.tree.map(jax.numpy.asarray, batch)

    def loss(model):
        kwargs = {"compute_dtype": "float32", "attention": "reference", "remat": "none"}
        hidden = qwen3.forward(model, batch.tokens, batch.positions, batch.segment_ids, **kwargs)
        logits = hidden @ qwen3.output_embedding(model).T
        logprobs = jax.nn.log_softmax(logits)[np.arange(16)[:, None], np.arange(32)[None], batch.targets]
        mean, _ = losses.dapo_loss(
            logprobs,
            batch.behavior_logprobs,
            batch.advantages,
            where=batch.loss_mask,
            clip_low=config.loss.clip_low,
            clip_high=config.loss.clip_high,
        )
        return mean.value()

    value, grads = jax.jit(jax.value_and_grad(loss))(model)
    o = config.optimizer
    plain = optax.chain(
        optax.clip_by_global_norm(o.max_grad_norm), optax.adam(o.learning_rate, b1=o.beta1, b2=o.beta2, eps=o.epsilon)
    )

    @jax.jit
    def step(model, grads):
        return optax.apply_updates(model, plain.update(grads, plain.init(model), model)[0])

    expected = named_leaves(step(model, grads))
    leaves, metrics = run(config)
    np.testing.assert_allclose(metrics["loss"], value, atol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    for name, leaf in expected.items():
        np.testing.assert_allclose(leaves[f"model/{name}"], leaf, atol=1e-6, err_msg=name)


def test_two_runs_give_the_same_bits(run, make_config):
    first, second = (run(make_config(), num_updates=2) for _ in range(2))
    assert first[1] == second[1]
    for name, leaf in first[0].items():
        np.testing.assert_array_equal(leaf, second[0][name])


def test_one_program_serves_any_number_of_micro_batches(make_config, architecture, batch, start):
    config = make_config(experience={"rows_per_micro_batch": 4})
    mesh, state = start(config)
    on_mesh = make_update_on_mesh(config, architecture, mesh, loss_name="dapo")
    arrays = jax.tree.map(lambda a: a.reshape(4, 4, 32), batch)
    for count in (1, 4, 2):
        state, _, _ = on_mesh(state, arrays, arrays.behavior_logprobs, np.int32(count))
    assert on_mesh._cache_size() == 1


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "factored"])
def test_supervised_updates_lower_the_cross_entropy(run, make_config, moments):
    mesh = {"data": 1, "fsdp": 1, "tensor": 1} if moments == "float32" else {"data": 2, "fsdp": 2, "tensor": 2}
    config = make_config(optimizer={"epsilon": 1e-8, "moments": moments}, mesh=mesh)
    first, last = (run(config, loss_name="supervised", num_updates=n)[1]["loss"] for n in (1, 12))
    assert last < 0.8 * first


@pytest.mark.parametrize("loss_name", sorted(LOSSES))
def test_every_objective_traces_with_its_knobs(make_config, architecture, batch, start, loss_name):
    config = make_config(loss={"dual_clip": 3.0})
    mesh, state = start(config)
    on_mesh = make_update_on_mesh(config, architecture, mesh, loss_name=loss_name)
    arrays = jax.tree.map(lambda a: a.reshape(2, 8, 32), batch)
    after, metrics, _ = jax.eval_shape(on_mesh, state, arrays, arrays.behavior_logprobs, np.int32(2))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert ("clip_low_share" in metrics) == (loss_name != "supervised")
    of_every_update = {"loss", "grad_norm", "learning_rate", "num_tokens"}
    of_its_own = {"drift_within_bounds", "drift_exceeded_at", "is_finite"}
    assert set(metrics) == metric_names(config, loss_name=loss_name) | of_every_update | of_its_own


def test_a_sequence_level_objective_updates_packed_rows(run, make_config):
    leaves, metrics = run(make_config(), loss_name="gspo_plus")
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves.values()) and metrics["grad_norm"] > 0
    assert leaves["update_count"] == 1


def test_recomputed_old_logprobs_are_the_models_own_and_make_the_ratio_one(run, make_config, batch, start):
    config = make_config(loss={"old_logprobs": "recomputed"}, rollout={"temperature": 0.7})
    mesh, state = start(config)
    old = make_token_logprobs(config, mesh)(state.model, batch, 2)
    hidden = jax.jit(qwen3.forward, static_argnames=("compute_dtype", "attention", "remat"))(
        state.model, batch.tokens, batch.positions, batch.segment_ids,
        compute_dtype="float32", attention="reference", remat="none",
    )  # fmt: skip
    expected, _ = token_logprobs(
        hidden,
        qwen3.output_embedding(state.model),
        jax.numpy.asarray(batch.targets),
        temperature=0.7,
        logits_mib=64,
        shards=WHOLE,
    )
    np.testing.assert_allclose(old[batch.loss_mask], np.asarray(expected)[batch.loss_mask], atol=1e-5)
    _, metrics = run(config, old_logprobs=old)
    assert metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-6) and metrics["approx_kl"] < 1e-9
    drift = np.abs(old - batch.behavior_logprobs)[batch.loss_mask]
    assert metrics["drift_mean"] == pytest.approx(drift.mean(), rel=1e-4)
    assert metrics["drift_max"] == pytest.approx(drift.max(), rel=1e-4)
    with pytest.raises(ValueError, match="give update the logprobs"):
        run(config)


def test_a_batch_that_is_no_whole_number_of_micro_batches_is_refused(run, make_config, batch):
    with pytest.raises(ValueError, match=r"batch has 12 rows; it must be a multiple of rows_per_micro_batch \(8\)"):
        run(make_config(), batch=jax.tree.map(lambda a: a[:12], batch))


def test_bfloat16_compute_keeps_weights_and_moments_in_float32(make_config, architecture, batch, start):
    config = make_config(model={"compute_dtype": "bfloat16", "remat": "layer"})
    mesh, state = start(config)
    on_mesh = make_update_on_mesh(config, architecture, mesh, loss_name="dapo")
    arrays = jax.tree.map(lambda a: a.reshape(2, 8, 32), batch)
    after, _, _ = jax.eval_shape(on_mesh, state, arrays, arrays.behavior_logprobs, np.int32(2))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(after)} == {"float32", "int32"}


@pytest.mark.parametrize("spoilt", ["gradient", "weights"])
def test_an_update_that_is_not_finite_is_not_taken(run, make_config, batch, start, spoilt):
    config = make_config()
    if spoilt == "weights":
        config = make_config(optimizer={"learning_rate": 1e38, "max_grad_norm": 1e30, "epsilon": 1e-30})
    else:
        logprobs = batch.behavior_logprobs.copy()
        row, time = np.argwhere(batch.loss_mask)[3]
        logprobs[row, time] = np.nan
        batch = batch._replace(behavior_logprobs=logprobs)
    _, state = start(config)
    before = named_leaves(jax.device_get(state))
    leaves, metrics = run(config, batch=batch, num_updates=2)
    assert metrics["skipped"] == 1 and "drift_exceeded_at" not in metrics
    for name, leaf in leaves.items():
        if spoilt == "gradient" or not np.isfinite(leaf).all():
            np.testing.assert_array_equal(leaf, before[name], err_msg=name)
        assert np.isfinite(leaf).all(), name


def test_every_mean_says_over_how_much_it_is_and_nothing_measured_is_absent(run, make_config, batch):
    _, metrics = run(make_config())
    num_tokens = batch.loss_mask.sum()
    assert metrics.counts["entropy"] == metrics.counts["drift_mean"] == num_tokens
    assert metrics["skipped"] == 0 and "ratio_max" in metrics and "ratio_max" not in metrics.counts
    assert not any(name.startswith("on_policy_drift") for name in metrics)  # no token is of these weights
    _, metrics = run(make_config(), batch=batch._replace(on_policy=batch.loss_mask))
    assert {"on_policy_drift_mean", "on_policy_drift_max"} <= metrics.keys()


def test_logprobs_of_micro_batches_that_hold_nothing_are_not_computed(make_config, batch, start):
    config = make_config()
    mesh, state = start(config)
    logprobs = make_token_logprobs(config, mesh)
    one, both = logprobs(state.model, batch, 1), logprobs(state.model, batch, 2)
    rows = config.experience.rows_per_micro_batch
    np.testing.assert_array_equal(one[:rows], both[:rows])
    assert not one[rows:].any() and both[rows:].any()
