"""Corrections of mismatch, and drift: numbers worked out by hand, and what stands under the mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax import losses, mismatch

pytestmark = pytest.mark.usefixtures("quick_compilation")

# k = 3, 0.25 and 1 in the first row; 1.25, 0.8 and one token that does not count in the second.
BEHAVIOR = np.log([[0.2, 0.8, 0.5], [0.4, 0.5, 0.9]])
OLD = np.log([[0.6, 0.2, 0.5], [0.5, 0.4, 0.001]])
WHERE = jnp.asarray([[True, True, True], [True, True, False]])
ARRAYS = (jnp.float32(OLD), jnp.float32(BEHAVIOR))
PACKED = {"where": WHERE, "segment_ids": jnp.asarray([[1, 1, 2], [1, 2, 2]])}

CORRECTIONS = {
    "truncated": partial(mismatch.truncated_weights, max_weight=2.0),
    "icepop": partial(mismatch.icepop_weights, min_weight=0.5, max_weight=5.0),
    "decoupled": mismatch.decoupled_weights,
    "sequence_rejection": partial(mismatch.sequence_rejection_mask, segment_ids=None, min_ratio=0.5, max_ratio=2.0),
}
every_correction = pytest.mark.parametrize("correct", CORRECTIONS.values(), ids=CORRECTIONS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("truncated", [[2.0, 0.25, 1.0], [1.25, 0.8, 1.0]]),
        ("icepop", [[3.0, 0.0, 1.0], [1.25, 0.8, 1.0]]),
        ("decoupled", [[3.0, 0.25, 1.0], [1.25, 0.8, 1.0]]),
    ],
)
def test_weights_by_hand(name, expected):
    np.testing.assert_allclose(CORRECTIONS[name](*ARRAYS, where=WHERE), expected, rtol=1e-6)


def test_sequence_rejection_by_hand():
    # geometric means: sqrt(3 x 0.25) = 0.866; 1; and in the second row 1.25; 0.8
    def kept(low, high):
        return mismatch.sequence_rejection_mask(*ARRAYS, **PACKED, min_ratio=low, max_ratio=high).tolist()

    assert kept(0.85, 1.3) == [[True, True, True], [True, False, False]]
    assert kept(0.9, 1.1) == [[False, False, True], [False, False, False]]
    assert kept(0.0, 1.1) == [[True, True, True], [False, True, False]]


def test_a_rejected_sequence_is_as_if_never_drawn():
    rng = np.random.default_rng(0)
    logprobs, old = jnp.float32(rng.normal(-1, 0.2, (2, 4, 6)))
    behavior = old.at[1].add(0.7)
    advantages, where = jnp.float32(rng.normal(size=4)), jnp.ones((4, 6), bool)
    bounds = {"segment_ids": None, "min_ratio": 0.9, "max_ratio": 1.1}
    kept = mismatch.sequence_rejection_mask(old, behavior, where=where, **bounds)
    others = np.array([0, 2, 3])
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    for loss in (losses.grpo_loss, losses.dapo_loss, losses.gspo_loss):
        got, _ = loss(logprobs, old, advantages, where=kept, **clip)
        expected, _ = loss(logprobs[others], old[others], advantages[others], **clip)
        np.testing.assert_allclose(got.value(), expected.value(), atol=1e-6)


def test_decoupled_ppo_is_the_clipped_proximal_objective_weighted_by_what_the_engine_sampled():
    # ratio to the proximal policy 1.5, clipped to 1.28; weight 2 for the token that the engine found half as likely
    behavior, proximal = jnp.float32(np.log([[0.2]])), jnp.float32(np.log([[0.4]]))
    where = jnp.ones((1, 1), bool)
    weights = mismatch.decoupled_weights(proximal, behavior, where=where)
    loss, _ = losses.dapo_loss(
        jnp.float32(np.log([[0.6]])), proximal, jnp.ones(1), clip_low=0.2, clip_high=0.28, importance_weights=weights
    )
    np.testing.assert_allclose(loss.value(), -2 * 1.28, rtol=1e-6)


@every_correction
@pytest.mark.parametrize("extreme", [1e4, -1e4, np.inf, np.nan])
def test_nothing_under_the_mask_has_a_say(correct, extreme):
    clean = correct(*ARRAYS, where=WHERE)
    for which in (0, 1):
        arrays = list(ARRAYS)
        arrays[which] = jnp.where(WHERE, arrays[which], extreme)
        np.testing.assert_array_equal(correct(*arrays, where=WHERE), clean)


@every_correction
def test_weights_are_finite_at_extreme_disagreement_and_have_no_gradient(correct):
    def total(old):
        return jnp.sum(correct(old, ARRAYS[1], where=WHERE).astype(jnp.float32))

    for shift in (1e4, -1e4):
        value, grad = jax.value_and_grad(total)(ARRAYS[0] + shift)
        assert np.isfinite(value) and not np.any(grad)


@every_correction
def test_all_masked_and_one_token_rows_give_no_nan(correct):
    nowhere = jnp.zeros((2, 3), bool)
    assert np.all(np.isfinite(correct(*ARRAYS, where=nowhere).astype(jnp.float32)))
    one = tuple(a[:, :1] for a in ARRAYS)
    assert np.all(np.isfinite(correct(*one, where=jnp.ones((2, 1), bool)).astype(jnp.float32)))


def test_drift_by_hand():
    metrics = mismatch.drift_metrics(*ARRAYS, where=WHERE)
    logs = np.log([3.0, 0.25, 1.0, 1.25, 0.8])
    np.testing.assert_allclose(metrics["drift_mean"].value(), np.abs(logs).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["drift_max"].value(), np.log(4.0), rtol=1e-6)
    np.testing.assert_allclose(metrics["drift_kl"].value(), (np.exp(logs) - 1 - logs).mean(), rtol=1e-5)


def test_the_worst_token_is_named_by_row_and_time():
    largest, row, time = mismatch.largest_drift(*ARRAYS, where=WHERE)
    np.testing.assert_allclose(largest, np.log(4.0), rtol=1e-6)
    assert (int(row), int(time)) == (0, 1)
    largest, row, time = mismatch.largest_drift(*ARRAYS, where=WHERE.at[0].set(False))
    np.testing.assert_allclose(largest, np.log(1.25), rtol=1e-6)
    assert int(row) == 1


def test_drift_is_zero_where_nothing_counts():
    metrics = mismatch.drift_metrics(*ARRAYS, where=jnp.zeros((2, 3), bool))
    assert {float(metric.value()) for metric in metrics.values()} == {0.0}
