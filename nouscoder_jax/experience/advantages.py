"""Advantages: a reward compared with the other rewards of its group.

In: rewards of one group, which of them count, which completions were cut. Out: one advantage a completion. NumPy only;
the functions of `ADVANTAGES` can be used alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

STD_EPSILON = 1e-6
"""Added to the group's standard deviation, as verl and tunix do."""

Rewards = Float64[np.ndarray, " group"]


def group_mean_std(rewards: Rewards, *, ddof: int) -> Rewards:
    """(r - mean) / (std + 1e-6), std with `ddof` degrees of freedom taken off (GRPO, arXiv:2402.03300).

    Zeros for equal rewards, whatever rounding makes of their mean.
    """
    if len(rewards) <= ddof or np.ptp(rewards) == 0:
        return np.zeros(len(rewards))
    return (rewards - rewards.mean()) / (rewards.std(ddof=ddof) + STD_EPSILON)


def group_mean(rewards: Rewards, *, ddof: int) -> Rewards:
    """r - mean (Dr. GRPO, arXiv:2503.20783); `ddof` has no part in it."""
    del ddof
    return rewards - rewards.mean() if len(rewards) else rewards


def leave_one_out(rewards: Rewards, *, ddof: int) -> Rewards:
    """r_i - mean of the others (RLOO, arXiv:2402.14740); 0 for a group of one. `ddof` has no part in it."""
    del ddof
    others = len(rewards) - 1
    return (rewards - rewards.mean()) * (others + 1) / others if others > 0 else np.zeros(len(rewards))


ADVANTAGES: dict[str, Callable[..., Rewards]] = {
    "group_mean_std": group_mean_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
}


def group_advantages(
    rewards: Sequence[float | None],
    is_overlong: Sequence[bool],
    *,
    advantage: Literal["group_mean_std", "group_mean", "leave_one_out"],
    overlong: Literal["zero_advantage", "leave_group", "keep"],
    ddof: int,
) -> tuple[Rewards, Bool[np.ndarray, " group"]]:
    """Advantages of one group, and which completions train.

    A reward of None (the judge failed) is as if that completion had never been drawn: out of the statistics and not
    trained on. A cut completion, by `overlong`:

        zero_advantage    its reward stays in the group's statistics, it does not train itself (NousCoder's environment:
                          its advantage is set to zero, so that it is not pushed toward shorter answers)
        leave_group       out of the statistics as well
        keep              nothing special

    Advantages are 0 wherever a completion does not train.
    """
    judged = np.array([reward is not None for reward in rewards], bool)
    cut = np.array(is_overlong, bool)
    counted = judged & ~cut if overlong == "leave_group" else judged
    trained = judged if overlong == "keep" else judged & ~cut
    values = np.zeros(len(rewards))
    values[counted] = ADVANTAGES[advantage](np.array([r for r in rewards if r is not None])[counted[judged]], ddof=ddof)
    return np.where(trained, values, 0.0), trained
