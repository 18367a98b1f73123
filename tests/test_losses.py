"""Objectives: numbers worked out by hand, and invariances."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def dr_grpo(*args, **kwargs):
    return losses.dr_grpo_loss(*args, normalizer_tokens=16.0, **kwargs)


OBJECTIVES = {
    "grpo": losses.grpo_loss,
    "dr_grpo": dr_grpo,
    "dapo": losses.dapo_loss,
    "gspo": losses.gspo_loss,
    "gspo_plus": losses.gspo_plus_loss,
    "cispo": losses.cispo_loss,
}
every_objective = pytest.mark.parametrize("loss", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def arrays(*rows):
    return tuple(jnp.asarray(r, jnp.float32) for r in rows)


def hand_example():
    """Two sequences of 2 and 1 tokens; ratios 1.5, 0.5 with A = 1 and 0.5 with A = -2."""
    old = jnp.full((2, 2), -1.0)
    ratio = jnp.asarray([[1.5, 0.5], [0.5, 1.0]])
    where = jnp.asarray([[True, True], [True, False]])
    return old + jnp.log(ratio), old, jnp.asarray([1.0, -2.0]), where


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # surrogates: min(1.5, 1.28) = 1.28; min(0.5, 0.8) = 0.5; min(-1.0, -1.6) = -1.6
        ("grpo", -((1.28 + 0.5) / 2 + -1.6) / 2),
        ("dr_grpo", -(1.28 + 0.5 - 1.6) / (2 * 16)),
        ("dapo", -(1.28 + 0.5 - 1.6) / 3),
        # s = sqrt(0.75) = 0.8660254 and 0.5
        ("gspo", -(0.8660254 - 1.6) / 2),
        ("gspo_plus", -(2 * 0.8660254 - 1.6) / 3),
        # weights 1.28, 0.8, 0.8 times A times log pi = -1 + log(1.5), -1 + log(0.5), -1 + log(0.5)
        ("cispo", -(1.28 * (-1 + np.log(1.5)) + 0.8 * (-1 + np.log(0.5)) - 2 * 0.8 * (-1 + np.log(0.5))) / 3),
    ],
)
def test_loss_equals_the_number_worked_out_by_hand(name, expected):
    logprobs, old, advantages, where = hand_example()
    loss, _ = OBJECTIVES[name](logprobs, old, advantages, where=where, **CLIP)
    np.testing.assert_allclose(loss.value(), expected, rtol=1e-6)


def test_metrics_count_clipped_tokens_on_the_side_that_the_advantage_sees():
    logprobs, old, advantages, where = hand_example()
    _, metrics = losses.dapo_loss(logprobs, old, advantages, where=where, **CLIP)
    assert {k: (float(v.total), float(v.count)) for k, v in metrics.items() if "clip" in k} == {
        "clip_low_share": (1.0, 3.0),
        "clip_high_share": (1.0, 3.0),
    }
    np.testing.assert_allclose(metrics["ratio_mean"].value(), 2.5 / 3, rtol=1e-6)
    kl = [0.5 - np.log(1.5), -0.5 - np.log(0.5), -0.5 - np.log(0.5)]
    np.testing.assert_allclose(metrics["approx_kl"].value(), np.mean(kl), rtol=1e-5)


def test_dual_clip_bounds_the_loss_of_a_negative_advantage():
    logprobs, old = arrays([[np.log(7.0)]], [[0.0]])
    for dual_clip, expected in ((None, 14.0), (3.0, 6.0)):
        loss, _ = losses.dapo_loss(logprobs, old, jnp.asarray([-2.0]), dual_clip=dual_clip, **CLIP)
        np.testing.assert_allclose(loss.value(), expected, rtol=1e-6)


def test_supervised_loss_is_the_mean_negative_logprob():
    loss, _ = losses.supervised_loss(jnp.asarray([[-1.0, -3.0]]), where=jnp.asarray([[True, False]]))
    assert (float(loss.total), float(loss.count)) == (1.0, 1.0)


def test_importance_weights_scale_token_losses():
    logprobs, old, advantages, where = hand_example()
    weights = jnp.asarray([[2.0, 0.0], [1.0, 9.0]])
    loss, _ = losses.dapo_loss(logprobs, old, advantages, where=where, importance_weights=weights, **CLIP)
    np.testing.assert_allclose(loss.value(), -(2 * 1.28 - 1.6) / 3, rtol=1e-6)


def test_k3_is_zero_at_equality_and_positive_elsewhere():
    logprobs, reference = arrays([[-1.0, -1.0]], [[-1.0, -2.0]])
    kl = losses.k3_kl(logprobs, reference, where=jnp.ones((1, 2), bool))
    np.testing.assert_allclose(kl, [[0.0, np.exp(-1.0)]], rtol=1e-6)


def test_soft_overlong_penalty_falls_linearly_inside_the_buffer():
    lengths = jnp.asarray([100, 16384, 18432, 20480, 30000])
    penalty = losses.soft_overlong_penalty(lengths, max_tokens=20480, buffer_tokens=4096)
    np.testing.assert_allclose(penalty, [0.0, 0.0, -0.5, -1.0, -1.0])


def test_segment_sum_handles_any_ids():
    values = jnp.asarray([[1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 2.0, 4.0, 8.0, 16.0]])
    ids = jnp.asarray([[7, 7, 3, 3, 0], [1, 2, 2, 2, 2]])
    expected = [[3, 3, 12, 12, 16], [1, 30, 30, 30, 30]]
    np.testing.assert_array_equal(losses.segment_sum(values, ids), expected)


def random_rows(rows=6, time=12, seed=0):
    """One sequence a row, of lengths 0 to `time`, first tokens not counted (a prompt)."""
    rng = np.random.default_rng(seed)
    lengths = np.array([0, 1, 3, 5, 8, time])[:rows]
    where = (np.arange(time) < lengths[:, None]) & (np.arange(time) >= np.minimum(2, lengths // 2)[:, None])
    old = rng.normal(-1.5, 0.5, (rows, time))
    logprobs = old + rng.normal(0, 0.3, (rows, time))
    advantages = rng.normal(0, 1, rows)
    return jnp.float32(logprobs), jnp.float32(old), jnp.float32(advantages), jnp.asarray(where), lengths


@partial(jax.jit, static_argnums=0)
def jitted_value_and_grad(loss, logprobs, old_logprobs, advantages, kwargs):
    def scalar(logprobs):
        mean, metrics = loss(logprobs, old_logprobs, advantages, **CLIP, **kwargs)
        return mean.value(), metrics

    return jax.value_and_grad(scalar, has_aux=True)(logprobs)


def value_and_grad(loss, logprobs, old_logprobs, advantages, **kwargs):
    (value, metrics), grad = jitted_value_and_grad(loss, logprobs, old_logprobs, advantages, kwargs)
    return float(value), grad, {k: float(m.value()) for k, m in metrics.items()}


@every_objective
def test_padding_changes_nothing(loss):
    logprobs, old, advantages, where, _ = random_rows()
    value, grad, metrics = value_and_grad(loss, logprobs, old, advantages, where=where)
    padded = [jnp.pad(x, ((0, 3), (0, 5)), constant_values=c) for x, c in ((logprobs, 99.0), (old, -99.0))]
    value_padded, grad_padded, metrics_padded = value_and_grad(
        loss, *padded, jnp.pad(advantages, (0, 3), constant_values=7.0), where=jnp.pad(where, ((0, 3), (0, 5)))
    )
    np.testing.assert_allclose(value_padded, value, atol=1e-6)
    np.testing.assert_allclose(grad_padded[:6, :12], grad, atol=1e-6)
    assert not np.any(grad_padded[6:]) and not np.any(grad_padded[:, 12:])
    assert metrics_padded == pytest.approx(metrics, abs=1e-6)


@every_objective
def test_packing_sequences_into_one_row_changes_nothing(loss):
    logprobs, old, advantages, where, lengths = random_rows()
    value, grad, metrics = value_and_grad(loss, logprobs, old, advantages, where=where)
    keep = [(r, t) for r in (3, 0, 5, 1, 4, 2) for t in range(lengths[r])]
    rows, times = (np.array(x) for x in zip(*keep, strict=True))
    packed = [x[rows, times][None] for x in (logprobs, old, jnp.broadcast_to(advantages[:, None], old.shape))]
    value_packed, grad_packed, metrics_packed = value_and_grad(
        loss, *packed, where=where[rows, times][None], segment_ids=jnp.asarray(rows)[None]
    )
    np.testing.assert_allclose(value_packed, value, atol=1e-6)
    np.testing.assert_allclose(grad_packed[0], grad[rows, times], atol=1e-6)
    assert metrics_packed == pytest.approx(metrics, abs=1e-6)


@every_objective
def test_order_of_rows_changes_nothing(loss):
    logprobs, old, advantages, where, _ = random_rows()
    order = np.array([4, 0, 2, 5, 1, 3])
    value, grad, _ = value_and_grad(loss, logprobs, old, advantages, where=where)
    moved = value_and_grad(loss, logprobs[order], old[order], advantages[order], where=where[order])
    np.testing.assert_allclose(moved[0], value, atol=1e-6)
    np.testing.assert_allclose(moved[1], grad[order], atol=1e-6)


@every_objective
def test_micro_batches_add_up_to_the_batch(loss):
    logprobs, old, advantages, where, _ = random_rows()
    loss = jax.jit(partial(loss, **CLIP))
    whole = loss(logprobs, old, advantages, where=where)
    parts = [loss(logprobs[s], old[s], advantages[s], where=where[s]) for s in (slice(0, 3), slice(3, 6))]
    summed = losses.add(*parts)
    assert float(summed[0].count) == float(whole[0].count)
    np.testing.assert_allclose(summed[0].value(), whole[0].value(), atol=1e-6)
    for name, mean in whole[1].items():
        np.testing.assert_allclose(summed[1][name].value(), mean.value(), atol=1e-6)


@every_objective
def test_on_policy_gradient_is_reinforce(loss):
    logprobs, _, advantages, where, _ = random_rows()
    _, grad, _ = value_and_grad(loss, logprobs, logprobs, advantages, where=where)
    tokens = np.maximum(where.sum(1, keepdims=True), 1)
    weight = {
        "grpo": 1 / tokens / 5,
        "gspo": 1 / tokens / 5,
        "dr_grpo": np.full_like(tokens, 1 / 80, dtype=float),
    }.get(next(k for k, v in OBJECTIVES.items() if v is loss), np.full(tokens.shape, 1 / where.sum()))
    np.testing.assert_allclose(grad, np.where(where, -np.asarray(advantages)[:, None] * weight, 0.0), atol=1e-6)


def test_gspo_equals_dapo_when_every_sequence_has_one_token():
    rng = np.random.default_rng(1)
    logprobs, old = jnp.float32(rng.normal(-1, 0.5, (8, 1))), jnp.float32(rng.normal(-1, 0.5, (8, 1)))
    advantages = jnp.float32(rng.normal(size=8))
    gspo = value_and_grad(losses.gspo_loss, logprobs, old, advantages)
    dapo = value_and_grad(losses.dapo_loss, logprobs, old, advantages)
    np.testing.assert_allclose(gspo[0], dapo[0], atol=1e-6)
    np.testing.assert_allclose(gspo[1], dapo[1], atol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_gradient_agrees_with_finite_differences(name):
    logprobs, old, advantages, where, _ = random_rows()

    def value(x):
        return value_and_grad(OBJECTIVES[name], x, old, advantages, where=where)[0]

    _, grad, _ = value_and_grad(OBJECTIVES[name], logprobs, old, advantages, where=where)
    direction = jnp.float32(np.random.default_rng(2).normal(size=logprobs.shape))
    slope = (value(logprobs + 1e-3 * direction) - value(logprobs - 1e-3 * direction)) / 2e-3
    np.testing.assert_allclose(slope, float(jnp.sum(grad * direction)), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("name", "per_token"), [("gspo", False), ("gspo_plus", True)])
def test_gradient_of_sequence_ratio_agrees_with_finite_differences_of_the_sequence_form(name, per_token):
    logprobs, old, advantages, where, _ = random_rows()
    mask, wide = np.asarray(where, np.float64), np.asarray(advantages, np.float64)
    tokens = mask.sum(1)

    def value(x):
        ratio = np.exp(((x - np.asarray(old, np.float64)) * mask).sum(1) / np.maximum(tokens, 1))
        surrogate = np.minimum(ratio * wide, np.clip(ratio, 0.8, 1.28) * wide) * (tokens > 0)
        return -(surrogate * tokens).sum() / tokens.sum() if per_token else -surrogate.sum() / 5

    _, grad, _ = value_and_grad(OBJECTIVES[name], logprobs, old, advantages, where=where)
    base, direction = np.asarray(logprobs, np.float64), np.random.default_rng(2).normal(size=logprobs.shape)
    slope = (value(base + 1e-5 * direction) - value(base - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(slope, np.sum(np.asarray(grad) * direction), rtol=1e-4)


@every_objective
@pytest.mark.parametrize("extreme", [1e4, -1e4, np.inf, -np.inf, np.nan])
def test_gradient_is_finite_whatever_stands_under_the_mask(loss, extreme):
    logprobs, old, advantages, where, _ = random_rows()
    clean = value_and_grad(loss, logprobs, old, advantages, where=where)
    dirty = value_and_grad(loss, jnp.where(where, logprobs, extreme), old, advantages, where=where)
    assert dirty[0] == clean[0]
    np.testing.assert_array_equal(dirty[1], clean[1])


@every_objective
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_loss_and_gradient_are_finite_at_extreme_counted_ratios(loss, extreme):
    logprobs, old, advantages, where, _ = random_rows()
    value, grad, _ = value_and_grad(loss, logprobs + extreme, old, advantages, where=where)
    assert np.isfinite(value) and np.all(np.isfinite(grad))


@every_objective
def test_all_masked_rows_give_zero_and_no_nan(loss):
    logprobs, old, advantages, where, _ = random_rows()
    value, grad, metrics = value_and_grad(loss, logprobs, old, advantages, where=jnp.zeros_like(where))
    assert value == 0.0 and not np.any(grad) and set(metrics.values()) == {0.0}


@every_objective
def test_bfloat16_inputs_are_summed_in_float32(loss):
    logprobs, old, advantages, where, _ = random_rows()
    narrow = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (logprobs, old)]
    mean, metrics = jax.eval_shape(partial(loss, where=where, **CLIP), *narrow, advantages)
    assert {leaf.dtype for leaf in jax.tree.leaves((mean, metrics))} == {jnp.dtype(jnp.float32)}


def test_losses_import_and_run_where_only_jax_is_installed(tmp_path):
    """A child Python without site-packages; its one folder has links to jax, what jax requires, and this package."""
    for name in ("jax", "jaxlib", "numpy", "numpy.libs", "scipy", "scipy.libs", "ml_dtypes", "opt_einsum"):
        spec = importlib.util.find_spec(name) if "." not in name else None
        folder = Path(spec.origin).parent if spec else Path(np.__file__).parents[1] / name
        if folder.exists():
            (tmp_path / name).symlink_to(folder)
    (tmp_path / "nouscoder_jax").symlink_to(Path(losses.__file__).parent)
    program = """
import sys
from nouscoder_jax.losses import dapo_loss
import nouscoder_jax.mismatch
from nouscoder_jax.experience.advantages import group_mean
import jax.numpy as jnp
assert group_mean(jnp.ones(2), ddof=0).tolist() == [0.0, 0.0]
loss, _ = dapo_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.ones(1), clip_low=0.2, clip_high=0.28)
ours = sorted(name for name in sys.modules if name.startswith("nouscoder_jax"))
print(float(loss.value()), ours, "flax" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    ours = ["", ".arguments", ".experience", ".experience.advantages", ".losses", ".mismatch"]
    assert result.stdout.strip() == f"-1.0 {['nouscoder_jax' + name for name in ours]} False", result.stderr


def test_entropy_is_that_of_the_distributions_where_given_and_minus_the_logprobs_where_not():
    logprobs, old, advantages, where = hand_example()
    _, metrics = losses.dapo_loss(logprobs, old, advantages, where=where, **CLIP)
    np.testing.assert_allclose(metrics["entropy"].value(), (3 - np.log([1.5, 0.5, 0.5]).sum()) / 3, rtol=1e-6)
    entropy = jnp.asarray([[1.0, 2.0], [6.0, 99.0]])
    loss, metrics = losses.dapo_loss(logprobs, old, advantages, where=where, entropy=entropy, **CLIP)
    assert float(metrics["entropy"].value()) == 3.0
    np.testing.assert_allclose(loss.value(), -(1.28 + 0.5 - 1.6) / 3, rtol=1e-6)  # only a metric


def test_token_entropy_by_hand():
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [1.0, 1e-30, 1e-30]]]))
    np.testing.assert_allclose(losses.token_entropy(logits), [[1.5 * np.log(2), np.log(3), 0.0]], rtol=1e-6, atol=1e-6)
    assert losses.token_entropy(logits.astype(jnp.bfloat16)).dtype == jnp.float32


@every_objective
def test_ratio_metrics_are_of_the_ratio_that_the_objective_clips(loss):
    logprobs, old, advantages, where = hand_example()
    _, metrics = loss(logprobs, old, advantages, where=where, **CLIP)
    of_sequences = loss in (losses.gspo_loss, losses.gspo_plus_loss)
    ratios = [np.sqrt(0.75), np.sqrt(0.75), 0.5] if of_sequences else [1.5, 0.5, 0.5]
    np.testing.assert_allclose(metrics["ratio_max"].value(), max(ratios), rtol=1e-6)
    np.testing.assert_allclose(metrics["ratio_mean"].value(), np.mean(ratios), rtol=1e-6)


def test_means_and_maxima_of_whole_trees_add_up():
    left = {"a": losses.Mean(jnp.float32(3.0), jnp.float32(2.0)), "b": losses.Max(jnp.float32(1.5))}
    right = {"a": losses.Mean(jnp.float32(1.0), jnp.float32(2.0)), "b": losses.Max(jnp.float32(1.2))}
    both = losses.add(left, right)
    assert float(both["a"].value()) == 1.0 and float(both["b"].value()) == 1.5


def test_means_over_tokens_and_over_sequences_by_hand():
    values, where = jnp.asarray([[1.0, 3.0, 8.0, np.nan]]), jnp.asarray([[True, True, True, False]])
    segment_ids = jnp.asarray([[1, 1, 2, 3]])
    assert float(losses.token_mean(values, where=where).value()) == 4.0
    mean = losses.sequence_mean(values, where=where, segment_ids=segment_ids)
    assert (float(mean.total), float(mean.count)) == (10.0, 2.0)  # (1 + 3) / 2 + 8; the third has no counted token


def test_grpo_with_the_papers_kl_term_comes_from_the_parts():
    logprobs, old, advantages, where = hand_example()
    kl = losses.sequence_mean(losses.k3_kl(logprobs, old, where=where), where=where, segment_ids=None)
    terms = 1 / np.array([1.5, 0.5, 0.5]) - 1 + np.log([1.5, 0.5, 0.5])
    np.testing.assert_allclose(kl.value(), ((terms[0] + terms[1]) / 2 + terms[2]) / 2, rtol=1e-5)


@every_objective
def test_sequences_of_one_token_and_empty_segments_give_no_nan(loss):
    ids = jnp.asarray([[1, 2, 2, 3, 0, 0]])
    where = jnp.asarray([[True, False, False, True, False, False]])
    rng = np.random.default_rng(5)
    logprobs, old, advantages = jnp.float32(rng.normal(-1, 0.3, (3, 1, 6)))
    value, grad, metrics = value_and_grad(loss, logprobs, old, advantages, where=where, segment_ids=ids)
    alone = value_and_grad(loss, logprobs[:, [0]], old[:, [0]], advantages[:, [0]])
    assert np.isfinite(value) and np.all(np.isfinite(grad)) and np.all(np.isfinite(list(metrics.values())))
    assert np.all(np.asarray(grad)[~np.asarray(where)] == 0)
    np.testing.assert_allclose(grad[0, 0], alone[1][0, 0] / 2, rtol=1e-6)  # one of two sequences, one of two tokens


@every_objective
def test_the_program_does_not_grow_with_the_number_of_segments(loss):
    """Nor with anything but the shape: segments are data, not structure."""

    def operations(segment_ids):
        shape = segment_ids.shape
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 3

        def total(logprobs, old, advantages):
            return loss(logprobs, old, advantages, segment_ids=segment_ids, **CLIP)[0].total

        return len(jax.jit(jax.grad(total)).lower(*arrays).as_text().splitlines())

    few, many = np.ones((1, 512), np.int32), np.arange(512, dtype=np.int32)[None]
    assert operations(jnp.asarray(few)) == operations(jnp.asarray(many)) < 2000


def test_cispo_gradient_is_its_weight_times_the_advantage():
    """Finite differences with the weight held fixed, as its definition holds it."""
    logprobs, old, advantages, where, _ = random_rows()
    _, grad, _ = value_and_grad(losses.cispo_loss, logprobs, old, advantages, where=where)
    weights = np.clip(np.exp(np.asarray(logprobs) - np.asarray(old)), 0.8, 1.28)
    expected = np.where(where, -weights * np.asarray(advantages)[:, None], 0.0) / where.sum()
    np.testing.assert_allclose(grad, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo_plus"])
def test_bfloat16_logprobs_lose_only_their_own_rounding(name):
    """4,096 equal terms: summed in bfloat16 they would stop growing at 256."""
    logprobs = jnp.full((1, 4096), -1.0, jnp.bfloat16)
    loss, metrics = OBJECTIVES[name](logprobs, logprobs, jnp.ones(1, jnp.bfloat16), **CLIP)
    assert float(loss.value()) == -1.0 and float(metrics["entropy"].value()) == 1.0
