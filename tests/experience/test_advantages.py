"""Advantages: numbers by hand, on NumPy and jax arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.experience import advantages
from nouscoder_jax.experience.advantages import ADVANTAGES, participation

pytestmark = pytest.mark.usefixtures("quick_compilation")

every_advantage = pytest.mark.parametrize("function", ADVANTAGES.values(), ids=ADVANTAGES)
ONE_OF_FOUR = np.array([1.0, -1.0, -1.0, -1.0])
CUT = [False, False, False, True]


@pytest.mark.parametrize(
    ("function", "ddof", "expected"),
    [
        # mean -0.5; deviations 1.5, -0.5, -0.5, -0.5; their squares sum to 3: population std sqrt(3/4), sample std 1
        (advantages.group_mean_std, 0, np.array([1.5, -0.5, -0.5, -0.5]) / np.sqrt(0.75)),
        (advantages.group_mean_std, 1, [1.5, -0.5, -0.5, -0.5]),
        (advantages.group_mean, 0, [1.5, -0.5, -0.5, -0.5]),
        # 1 - (-1); -1 - (1 - 1 - 1) / 3
        (advantages.leave_one_out, 0, [2.0, -2 / 3, -2 / 3, -2 / 3]),
    ],
)
def test_advantages_of_a_group_by_hand(function, ddof, expected):
    np.testing.assert_allclose(function(ONE_OF_FOUR, ddof=ddof), expected, rtol=1e-5)


def test_advantages_over_a_batch_by_hand():
    rewards = np.array([[1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, -1.0]])  # mean 0, population std 1
    np.testing.assert_allclose(advantages.batch_mean_std(rewards, ddof=0), rewards, rtol=1e-5)
    expected = [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5]]
    np.testing.assert_allclose(advantages.group_mean_batch_std(rewards, ddof=0), expected, rtol=1e-5)
    sample_std = np.sqrt(8 / 7)
    np.testing.assert_allclose(advantages.batch_mean_std(rewards, ddof=1), rewards / sample_std, rtol=1e-5)


@every_advantage
@pytest.mark.parametrize("rewards", [[], [1.0], [0.1, 0.1, 0.1]])
def test_equal_rewards_give_zeros_and_never_nan(function, rewards):
    np.testing.assert_array_equal(function(np.array(rewards), ddof=1), np.zeros(len(rewards)))


@every_advantage
def test_advantages_of_a_group_sum_to_zero(function):
    assert abs(function(np.array([1.0, -1.0, -1.0, 1.0, 1.0]), ddof=0).sum()) < 1e-12


@every_advantage
def test_a_reward_that_does_not_count_is_as_if_never_drawn(function):
    rewards, where = np.array([1.0, np.nan, -1.0, -1.0]), np.array([True, False, True, True])
    got = function(rewards, where=where, ddof=1)
    np.testing.assert_allclose(got[where], function(np.array([1.0, -1.0, -1.0]), ddof=1), rtol=1e-12)
    assert got[1] == 0.0


@every_advantage
def test_groups_side_by_side_give_the_same_on_jax_arrays_under_jit(function):
    rng = np.random.default_rng(0)
    rewards, where = rng.normal(size=(5, 8)), rng.random((5, 8)) < 0.7
    on_host = function(rewards, where=where, ddof=1)
    on_device = jax.jit(lambda r, w: function(r, where=w, ddof=1))(jnp.float32(rewards), jnp.asarray(where))
    assert isinstance(on_device, jax.Array)
    np.testing.assert_allclose(on_device, on_host, atol=1e-5)


@pytest.mark.parametrize("name", ["group_mean_std", "group_mean", "leave_one_out"])
def test_a_group_does_not_depend_on_the_other_groups(name):
    rewards = np.random.default_rng(0).normal(size=(3, 8))
    together = ADVANTAGES[name](rewards, ddof=1)
    np.testing.assert_allclose(together[1], ADVANTAGES[name](rewards[1], ddof=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("overlong", "counted", "trained"),
    [
        ("zero_advantage", [True, True, False, True], [True, True, False, False]),
        ("leave_group", [True, True, False, False], [True, True, False, False]),
        ("keep", [True, True, False, True], [True, True, False, True]),
    ],
)
def test_a_cut_completion_counts_and_trains_as_chosen_and_a_judge_failure_never(overlong, counted, trained):
    got = participation([True, True, False, True], CUT, overlong=overlong)
    assert [mask.tolist() for mask in got] == [counted, trained]


@every_advantage
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "bfloat16"])
def test_rewards_of_any_dtype_are_numbers(function, array, dtype):
    rewards = [[1, 0, 0, 0], [1, 1, 0, 1]]
    expected = function(np.array(rewards, np.float64), ddof=0)
    got = function(array(np.array(rewards, jnp.dtype(dtype))), ddof=0)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5)


def test_a_group_of_more_than_256_in_half_precision_is_counted_right():
    rewards = jnp.asarray(np.arange(1000) % 4 == 0, jnp.bfloat16)
    np.testing.assert_allclose(advantages.group_mean(rewards, ddof=0)[:2], [0.75, -0.25], rtol=1e-6)
