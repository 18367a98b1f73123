"""Advantages of a group: numbers by hand."""

import numpy as np
import pytest

from nouscoder_jax.experience.advantages import ADVANTAGES, group_advantages

KEEP = {"advantage": "group_mean_std", "overlong": "keep", "ddof": 0}
CUT = [False, False, False, True]


def test_mean_and_std_by_hand():
    # 1 accepted of 4 at +-1: mean -0.5, population std sqrt(0.75), sample std 1
    rewards = np.array([1.0, -1.0, -1.0, -1.0])
    expected = np.array([1.5, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(ADVANTAGES["group_mean_std"](rewards, ddof=0), expected / np.sqrt(0.75), rtol=1e-5)
    np.testing.assert_allclose(ADVANTAGES["group_mean_std"](rewards, ddof=1), expected, rtol=1e-5)


def test_mean_and_leave_one_out_by_hand():
    rewards = np.array([1.0, -1.0, -1.0, -1.0])
    np.testing.assert_allclose(ADVANTAGES["group_mean"](rewards, ddof=0), [1.5, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(ADVANTAGES["leave_one_out"](rewards, ddof=0), [2.0, -2 / 3, -2 / 3, -2 / 3])


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("rewards", [[], [1.0], [0.1, 0.1, 0.1]])
def test_equal_rewards_give_zeros_and_never_nan(name, rewards):
    np.testing.assert_allclose(ADVANTAGES[name](np.array(rewards), ddof=1), np.zeros(len(rewards)), atol=1e-12)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_of_a_group_sum_to_zero(name):
    rewards = np.array([1.0, -1.0, -1.0, 1.0, 1.0])
    assert abs(ADVANTAGES[name](rewards, ddof=0).sum()) < 1e-12


def test_a_judge_failure_is_as_if_never_drawn():
    with_failure, trained = group_advantages([1.0, None, -1.0, -1.0], [False] * 4, **KEEP)
    without, _ = group_advantages([1.0, -1.0, -1.0], [False] * 3, **KEEP)
    np.testing.assert_array_equal(with_failure[[0, 2, 3]], without)
    assert with_failure[1] == 0.0 and trained.tolist() == [True, False, True, True]


def test_zero_advantage_keeps_the_reward_of_a_cut_completion_in_the_statistics():
    advantages, trained = group_advantages([1.0, 1.0, -1.0, -1.0], CUT, **KEEP | {"overlong": "zero_advantage"})
    np.testing.assert_allclose(advantages, [1.0, 1.0, -1.0, 0.0], rtol=1e-5)
    assert trained.tolist() == [True, True, True, False]


def test_leave_group_takes_a_cut_completion_out_of_the_statistics():
    advantages, trained = group_advantages([1.0, 1.0, -1.0, -1.0], CUT, **KEEP | {"overlong": "leave_group"})
    np.testing.assert_allclose(advantages, np.array([1.0, 1.0, -2.0, 0.0]) / np.sqrt(2), rtol=1e-5)
    assert trained.tolist() == [True, True, True, False]


def test_keep_trains_on_a_cut_completion():
    advantages, trained = group_advantages([1.0, 1.0, -1.0, -1.0], CUT, **KEEP)
    np.testing.assert_allclose(advantages, [1.0, 1.0, -1.0, -1.0], rtol=1e-5)
    assert trained.all()
