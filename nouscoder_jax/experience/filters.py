"""Which groups and completions enter an update, and why the others do not.

In: a group's rollouts with their verdicts. Out: its experiences with advantages, and for the group a `GroupFate`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from nouscoder_jax.config import ExperienceConfig
from nouscoder_jax.experience.advantages import group_advantages
from nouscoder_jax.experience.rewards import reward
from nouscoder_jax.types import Experience, Rollout, Verdict


class GroupFate(enum.Enum):
    """What becomes of a group. Values are names for metrics and logs."""

    USED = "used"
    EQUAL = "equal"  # every counted reward is the same: no advantage, no gradient
    JUDGE_FAILURE = "judge_failure"  # fewer than two judged completions are left
    OVERLONG = "overlong"  # every completion that would train was cut
    ABORTED = "aborted"  # fewer than two completions are left after those that the engine gave up


def judge_group(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict | None], *, config: ExperienceConfig
) -> tuple[tuple[Experience, ...], GroupFate]:
    """A group's experiences, in the order of its rollouts, and its fate.

    Completions that the engine aborted count as never drawn, like those whose judge failed. A group whose fate is not
    USED is dropped whole by dynamic sampling (DAPO, arXiv:2503.14476) and none of its experiences is trainable; with
    `drop_equal_groups` off, a group of equal rewards is USED: no advantage, but its tokens count in the denominator.
    """
    aborted = [rollout.completion.finish_reason == "abort" for rollout in rollouts]
    verdicts = [None if gone else verdict for gone, verdict in zip(aborted, verdicts, strict=True)]
    rewards = [reward(verdict, config=config) for verdict in verdicts]
    advantages, trained = group_advantages(
        rewards,
        [rollout.completion.finish_reason == "length" for rollout in rollouts],
        advantage=config.advantage,
        overlong=config.overlong,
        ddof=config.std_ddof,
    )
    fate = _fate(rollouts, rewards, trained.tolist(), num_aborted=sum(aborted), config=config)
    experiences = tuple(
        Experience(
            rollout=rollout,
            verdict=verdict,
            reward=value,
            advantage=float(advantage) if fate is GroupFate.USED else 0.0,
            trainable=bool(trains) and fate is GroupFate.USED,
        )
        for rollout, verdict, value, advantage, trains in zip(
            rollouts, verdicts, rewards, advantages, trained, strict=True
        )
    )
    return experiences, fate


def _fate(
    rollouts: Sequence[Rollout],
    rewards: Sequence[float | None],
    trained: Sequence[bool],
    *,
    num_aborted: int,
    config: ExperienceConfig,
) -> GroupFate:
    """The first reason that holds, in the order of GroupFate's comments on what is left."""
    if len(rewards) - num_aborted < 2:
        return GroupFate.ABORTED
    if sum(value is not None for value in rewards) < 2:
        return GroupFate.JUDGE_FAILURE
    if not any(trained):
        return GroupFate.OVERLONG
    counted = {
        value
        for value, rollout in zip(rewards, rollouts, strict=True)
        if value is not None and not (config.overlong == "leave_group" and rollout.completion.finish_reason == "length")
    }
    return GroupFate.EQUAL if config.drop_equal_groups and len(counted) < 2 else GroupFate.USED
