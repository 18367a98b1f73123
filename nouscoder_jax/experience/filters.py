"""Which groups and completions enter an update, and why the others do not.

In: a group's rollouts with their verdicts. Out: its experiences, and a `DropReason` for a group that is not trained on.
Once the batch is full: the same experiences with their advantages.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nouscoder_jax.config import ExperienceConfig
from nouscoder_jax.experience.advantages import ADVANTAGES, participation
from nouscoder_jax.experience.rewards import reward
from nouscoder_jax.types import Experience, Rollout, Verdict

USED = "used"
"""What metrics and logs call a group without a DropReason."""


class DropReason(enum.Enum):
    """Why a group is not trained on. Values are names for metrics and logs."""

    EQUAL = "equal"  # every counted reward is the same: no advantage, no gradient
    JUDGE_FAILURE = "judge_failure"  # fewer than two judged completions are left
    OVERLONG = "overlong"  # every completion that would train was cut
    STALE = "stale"  # too many batches were trained since its first token was asked for
    ABORTED = "aborted"  # fewer than two completions are left after those that the engine gave up


def group_class(drop_reason: DropReason | None) -> str:
    """What became of a group, in a word."""
    return drop_reason.value if drop_reason else USED


def classify_group(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict | None], *, config: ExperienceConfig
) -> tuple[tuple[Experience, ...], DropReason | None]:
    """A group's experiences, in the order of its rollouts and with no advantages yet, and why it is dropped.

    Completions that the engine aborted count as never drawn, like those whose judge failed. A group with a reason
    is dropped whole by dynamic sampling (DAPO, arXiv:2503.14476) and none of its experiences is trainable; with
    `drop_equal_groups` off, a group of equal rewards is used: no advantage, but its tokens count in the denominator.
    """
    aborted = [rollout.completion.finish_reason == "abort" for rollout in rollouts]
    verdicts = [None if gone else verdict for gone, verdict in zip(aborted, verdicts, strict=True)]
    rewards = [
        reward(verdict, config=config) if rollout.score is None else rollout.score
        for rollout, verdict in zip(rollouts, verdicts, strict=True)
    ]
    counted, trained = _participation(rollouts, rewards, config=config)
    counted_rewards = {value for value, counts in zip(rewards, counted, strict=True) if counts}
    drop_reason = _drop_reason(rewards, counted_rewards, trained, num_aborted=sum(aborted), config=config)
    experiences = tuple(
        Experience(
            rollout=rollout,
            verdict=verdict,
            reward=value,
            advantage=0.0,
            trainable=bool(trains) and drop_reason is None,
        )
        for rollout, verdict, value, trains in zip(rollouts, verdicts, rewards, trained, strict=True)
    )
    return experiences, drop_reason


def assign_advantages(
    groups: Sequence[Sequence[Experience]],
    *,
    config: ExperienceConfig,
    group_size: int,
) -> list[tuple[Experience, ...]]:
    """The same groups, which make a batch, with their advantages; 0 for a completion that does not train."""
    if not groups:
        return []
    rewards = np.zeros((len(groups), group_size))
    counted = np.zeros((len(groups), group_size))
    for index, group in enumerate(groups):
        rewards[index] = [experience.reward or 0.0 for experience in group]
        counted[index] = _participation([e.rollout for e in group], [e.reward for e in group], config=config)[0]
    values = ADVANTAGES[config.advantage](rewards, where=counted > 0, ddof=config.std_ddof)
    return [
        tuple(
            replace(experience, advantage=float(value) if experience.trainable else 0.0)
            for experience, value in zip(group, row[: len(group)], strict=True)
        )
        for group, row in zip(groups, values, strict=True)
    ]


def _participation(
    rollouts: Sequence[Rollout], rewards: Sequence[float | None], *, config: ExperienceConfig
) -> tuple[list[bool], list[bool]]:
    """Whose reward counts, and who trains."""
    is_overlong = [rollout.completion.finish_reason == "length" for rollout in rollouts]
    counted, trained = participation([reward is not None for reward in rewards], is_overlong, overlong=config.overlong)
    return counted.tolist(), trained.tolist()


def _drop_reason(
    rewards: Sequence[float | None],
    counted_rewards: set[float | None],
    trained: Sequence[bool],
    *,
    num_aborted: int,
    config: ExperienceConfig,
) -> DropReason | None:
    """The first reason that holds; None for a group that is used."""
    if len(rewards) - num_aborted < 2:
        return DropReason.ABORTED
    if sum(value is not None for value in rewards) < 2:
        return DropReason.JUDGE_FAILURE
    if not any(trained):
        return DropReason.OVERLONG
    return DropReason.EQUAL if config.drop_equal_groups and len(counted_rewards) < 2 else None
