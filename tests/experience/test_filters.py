"""Fates of groups."""

import dataclasses

import numpy as np
import pytest

from nouscoder_jax.experience.filters import DropReason, assign_advantages, classify_group
from nouscoder_jax.experience.rewards import reward


def assign(groups, config):
    """The groups with advantages, in a batch of their own."""
    return assign_advantages(groups, config=config, group_size=len(groups[0]))


@pytest.fixture
def judge(make_rollout, make_verdict, experience_config):
    def run(accepted, finish=None, **changes):
        """`accepted`: one letter a completion: A accepted, R rejected, x judge failure."""
        finish = finish or ["stop"] * len(accepted)
        rollouts = [make_rollout(index=i, finish_reason=f) for i, f in enumerate(finish)]
        verdicts = [None if letter == "x" else make_verdict(letter == "A") for letter in accepted]
        config = dataclasses.replace(experience_config, **changes)
        experiences, drop_reason = classify_group(rollouts, verdicts, config=config)
        if drop_reason is None:
            (experiences,) = assign([experiences], config)
        return experiences, drop_reason

    return run


def test_reward_is_one_number_for_accepted_another_for_the_rest_and_none_for_a_judge_failure(
    make_verdict, experience_config
):
    verdicts = [make_verdict(True), make_verdict(False), None]
    assert [reward(v, config=experience_config) for v in verdicts] == [1.0, -1.0, None]


def test_a_mixed_group_is_used_whole(judge):
    experiences, drop_reason = judge("ARRA")
    assert drop_reason is None
    assert [round(e.advantage, 4) for e in experiences] == [1.0, -1.0, -1.0, 1.0]
    assert all(e.trainable for e in experiences)


@pytest.mark.parametrize("letters", ["AAAA", "RRRR"])
def test_a_group_of_equal_rewards_is_dropped(judge, letters):
    experiences, drop_reason = judge(letters)
    assert drop_reason is DropReason.EQUAL and not any(e.trainable for e in experiences)


def test_a_group_of_equal_rewards_is_used_where_dynamic_sampling_is_off(judge):
    experiences, drop_reason = judge("RRRR", drop_equal_groups=False)
    assert drop_reason is None and {e.advantage for e in experiences} == {0.0}


def test_a_group_equal_but_for_judge_failures_is_dropped_as_equal(judge):
    assert judge("RxRR")[1] is DropReason.EQUAL


def test_a_group_with_fewer_than_two_verdicts_is_a_judge_failure(judge):
    assert judge("Axxx")[1] is DropReason.JUDGE_FAILURE


def test_an_aborted_completion_counts_as_never_drawn(judge):
    experiences, drop_reason = judge("ARR", ["stop", "stop", "abort"])
    assert drop_reason is None
    assert [e.trainable for e in experiences] == [True, True, False]
    assert [round(e.advantage, 4) for e in experiences] == [1.0, -1.0, 0.0]
    assert judge("ARR", ["stop", "abort", "abort"])[1] is DropReason.ABORTED


def test_a_cut_completion_still_decides_whether_rewards_are_equal_as_in_the_original(judge):
    finish = ["stop", "stop", "length"]
    assert judge("AAR", finish)[1] is None
    assert judge("AAR", finish, overlong="leave_group")[1] is DropReason.EQUAL


def test_a_group_with_nothing_but_cut_completions_is_overlong(judge):
    assert judge("AR", ["length", "length"])[1] is DropReason.OVERLONG


def test_advantages_over_the_batch_are_those_of_one_large_group(make_rollout, make_verdict, experience_config):
    config = dataclasses.replace(experience_config, advantage="batch_mean_std")
    groups = []
    for letters in ("ARRR", "AAAR"):
        rollouts = [make_rollout(index=i) for i in range(4)]
        groups.append(classify_group(rollouts, [make_verdict(x == "A") for x in letters], config=config)[0])
    values = [[e.advantage for e in group] for group in assign(groups, config)]
    np.testing.assert_allclose(values, [[1, -1, -1, -1], [1, 1, 1, -1]], rtol=1e-5)  # mean 0, deviation 1 over all 8


def test_no_groups_have_no_advantages(experience_config):
    assert assign_advantages([], config=experience_config, group_size=4) == []
