"""What other verdicts would have done: to rewards, to which groups are used, to advantages.

In: a stored step and its new verdicts. Out: `StepEffects`; over steps `Totals`, lines for people and for a file.

Both sides are computed here from verdicts, the stored ones and the new ones, by the very functions that the loop uses;
so a difference can only come from the verdicts. What the run stored is compared with the first side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.experience.filters import DropReason, assign_advantages, classify_group, group_class
from nouscoder_jax.loop.stored import StoredRollout, StoredStep
from nouscoder_jax.types import Experience, Verdict

SAME = 1e-4
"""Advantages closer than this are equal."""
NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A verdict that is another one now, and what hangs on it.

    Example:
        Change(step=3, old=StoredRollout(...), new=Verdict(...), before=Experience(...), after=Experience(...),
               old_drop_reason=DropReason.EQUAL, new_drop_reason=None)
    """

    step: int
    old: StoredRollout
    new: Verdict
    before: Experience
    after: Experience
    old_drop_reason: DropReason | None
    new_drop_reason: DropReason | None
    """Of its group."""

    @property
    def groups(self) -> tuple[str, str]:
        """What became of its group and what would have."""
        return group_class(self.old_drop_reason), group_class(self.new_drop_reason)

    @property
    def outcomes(self) -> tuple[str, str]:
        """Old and new."""
        return outcome_name(self.old.verdict), self.new.outcome.value

    def to_dict(self) -> dict[str, Any]:
        """One line of the file."""
        rollout, (old, new) = self.old.rollout, self.outcomes
        return {
            "step": self.step,
            "group_id": rollout.group_id,
            "sample_index": rollout.sample_index,
            "problem_id": rollout.prompt.problem_id,
            "old_outcome": None if self.old.verdict is None else old,
            "new_outcome": new,
            "old_reward": self.before.reward,
            "new_reward": self.after.reward,
            "old_drop_reason": self.old_drop_reason and self.old_drop_reason.value,
            "new_drop_reason": self.new_drop_reason and self.new_drop_reason.value,
            "old_advantage": self.before.advantage,
            "new_advantage": self.after.advantage,
            "old_detail": None if self.old.verdict is None else self.old.verdict.detail,
            "new_detail": self.new.detail,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEffects:
    """What the new verdicts would have changed in one step.

    Example:
        StepEffects(step=3, changes=(Change(...),), num_rewards=1, num_groups=1, num_advantages=8, ...)
    """

    step: int
    changes: tuple[Change, ...]
    num_rewards: int
    """Rollouts whose reward is another one."""
    num_groups: int
    """Groups that would have been used and were not, or dropped for another reason, or the reverse."""
    num_advantages: int
    """Rollouts whose advantage is another one, those of unchanged verdicts included."""
    reward_sums: tuple[float, float]
    reward_counts: tuple[int, int]
    """Rewards old and new, for means."""
    num_unlike_stored: int
    """Rollouts whose stored reward or advantage is not what the config makes of the stored verdicts."""

    @property
    def mean_change(self) -> float:
        """New mean reward less the old one; 0 where there is none."""
        return _mean_change(self.reward_sums, self.reward_counts)


def step_effects(
    stored: StoredStep, verdicts: Sequence[Sequence[Verdict | None]], *, config: TrainConfig
) -> StepEffects:
    """Compares the step with what it would have been under `verdicts`, one for each rollout of each group.

    A group that would have been used counts in the batch, even beside a full one: what would not have been drawn then
    is not known.
    """
    before, old_reasons = _experiences(stored, [[r.verdict for r in group] for group in stored.groups], config=config)
    after, new_reasons = _experiences(stored, verdicts, config=config)
    changes, pairs = [], []
    for group, olds, news, old_reason, new_reason in zip(
        stored.groups, before, after, old_reasons, new_reasons, strict=True
    ):
        for rollout, old, new in zip(group, olds, news, strict=True):
            pairs.append((rollout, old, new))
            if new.verdict is not None and outcome_name(new.verdict) != outcome_name(rollout.verdict):
                changes.append(
                    Change(
                        step=stored.step,
                        old=rollout,
                        new=new.verdict,
                        before=old,
                        after=new,
                        old_drop_reason=old_reason,
                        new_drop_reason=new_reason,
                    )
                )
    rewards = [[e.reward for e in side if e.reward is not None] for side in zip(*(p[1:] for p in pairs), strict=True)]
    rewards = rewards or [[], []]
    return StepEffects(
        step=stored.step,
        changes=tuple(changes),
        num_rewards=sum(old.reward != new.reward for _, old, new in pairs),
        num_groups=sum(old is not new for old, new in zip(old_reasons, new_reasons, strict=True)),
        num_advantages=sum(abs(old.advantage - new.advantage) > SAME for _, old, new in pairs),
        reward_sums=(math.fsum(rewards[0]), math.fsum(rewards[1])),
        reward_counts=(len(rewards[0]), len(rewards[1])),
        num_unlike_stored=sum(
            rollout.reward != old.reward or abs(rollout.advantage - old.advantage) > SAME for rollout, old, _ in pairs
        ),
    )


@dataclass(kw_only=True)
class Totals:
    """What came of a whole run."""

    num_rollouts: int = 0
    num_judged: int = 0
    """Programs really run: equal ones of one problem once."""
    num_failures: int = 0
    """Rollouts that could not be judged now; they count as they were."""
    num_aborted: int = 0
    num_incomplete: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: list[StepEffects] = field(default_factory=list)

    def add(self, effects: StepEffects) -> None:
        """Takes over what became of a step; its changes are counted here and kept nowhere."""
        self.pairs.update(change.outcomes for change in effects.changes)
        self.steps.append(effects)

    @property
    def exit_code(self) -> int:
        """0: every verdict is the same; 1: some are not, or could not be judged."""
        return 1 if self.pairs or self.num_failures else 0

    def lines(self) -> list[str]:
        """For people."""
        told = [f"{self.num_rollouts} rollouts, {self.num_judged} different programs judged"]
        told += [
            f"  {number} not judged then either: the engine gave them up" for number in [self.num_aborted] if number
        ]
        told += [f"  {number} lines left out: {why}" for why, number in self.unreadable.most_common()]
        told += [f"  {number} left out: their group is not whole" for number in [self.num_incomplete] if number]
        told += [f"  {number} could not be judged now" for number in [self.num_failures] if number]
        if unlike := sum(step.num_unlike_stored for step in self.steps):
            told.append(
                f"  {unlike} have another reward or advantage in the run folder than config.json gives for their "
                "verdict: the run was resumed with other settings; below, both sides are as config.json says"
            )
        if not self.pairs:
            return [*told, "no verdict changed"]
        told.append(f"{self.pairs.total()} verdicts changed")
        told += [f"  {old} -> {new}: {number}" for (old, new), number in self.pairs.most_common()]
        largest = max(self.steps, key=lambda step: abs(step.mean_change))
        sums = np.sum([step.reward_sums for step in self.steps], axis=0)
        counts = np.sum([step.reward_counts for step in self.steps], axis=0)
        return [
            *told,
            f"{sum(step.num_rewards for step in self.steps)} rollouts with another reward, "
            f"{sum(step.num_advantages for step in self.steps)} with another advantage, "
            f"{sum(step.num_groups for step in self.steps)} groups used or dropped otherwise",
            f"mean reward {_mean_change(sums, counts):+.4f} over all, {largest.mean_change:+.4f} at most "
            f"(step {largest.step})",
        ]


def outcome_name(verdict: Verdict | None) -> str:
    """For people."""
    return NOT_JUDGED if verdict is None else verdict.outcome.value


def _experiences(
    stored: StoredStep, verdicts: Sequence[Sequence[Verdict | None]], *, config: TrainConfig
) -> tuple[list[tuple[Experience, ...]], list[DropReason | None]]:
    """The step's experiences with their advantages, and why its groups are dropped."""
    judged = [
        classify_group([r.rollout for r in group], found, config=config.experience)
        for group, found in zip(stored.groups, verdicts, strict=True)
    ]
    used = [experiences for experiences, drop_reason in judged if drop_reason is None]
    advantaged = iter(assign_advantages(used, config=config.experience, group_size=config.rollout.group_size))
    groups = [next(advantaged) if drop_reason is None else experiences for experiences, drop_reason in judged]
    return groups, [drop_reason for _, drop_reason in judged]


def _mean_change(sums: Any, counts: Any) -> float:
    return float(sums[1] / counts[1] - sums[0] / counts[0]) if min(counts) else 0.0
