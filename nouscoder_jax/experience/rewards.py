"""Rewards: what a verdict is worth.

In: a Verdict, or None where the judge failed. Out: a number, or None where there is nothing to learn from.
"""

from __future__ import annotations

from nouscoder_jax.config import ExperienceConfig
from nouscoder_jax.types import Outcome, Verdict


def reward(verdict: Verdict | None, *, config: ExperienceConfig) -> float | None:
    """`reward_accepted` for a program that passed every test, `reward_rejected` for every other verdict (NousCoder: +1
    and -1), and None where the judge failed: a broken sandbox says nothing about a program."""
    if verdict is None:
        return None
    return config.reward_accepted if verdict.outcome is Outcome.ACCEPTED else config.reward_rejected
