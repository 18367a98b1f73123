"""Advantages: a reward compared with other rewards, as pure functions on arrays.

In: rewards of one group or of a batch of groups, and which of them count. Out: advantages of the same shape. Arrays may
be NumPy's or jax's (then also under jit): whatever has `__array_namespace__`. Needs nothing but NumPy.

    rewards    "group", or "... group" for several groups of one size; floats, integers or booleans, which are computed
               with in float32 or wider; not counted rewards may be anything, NaN included
    where      True where a reward counts; None: all. A reward that does not count is as if it had never been drawn: it
               is no part of any mean or deviation, and its advantage is 0
    ddof       degrees of freedom taken off in a standard deviation: 0 population, 1 sample (verl, TRL and tunix: 1)

All of them are 0 where there is nothing to compare with (equal rewards, a single reward), whatever rounding makes of a
mean. Which rewards count, and which completions train, is `participation`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nouscoder_jax.arguments import check, has_values

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Shaped

STD_EPSILON = 1e-6
"""Added to a standard deviation, as verl and tunix do."""


def group_mean_std(
    rewards: Shaped[Any, "*batch group"], *, where: Bool[Any, "*batch group"] | None = None, ddof: int
) -> Float[Any, "*batch group"]:
    """(r - group's mean) / (group's std + 1e-6) (GRPO, arXiv:2402.03300)."""
    rewards, where = _numbers(rewards, where)
    return _centered(rewards, where, axis=-1) / (_std(rewards, where, axis=-1, ddof=ddof) + STD_EPSILON)


def group_mean(
    rewards: Shaped[Any, "*batch group"], *, where: Bool[Any, "*batch group"] | None = None, ddof: int
) -> Float[Any, "*batch group"]:
    """r - group's mean (Dr. GRPO, arXiv:2503.20783); `ddof` has no part in it."""
    del ddof
    return _centered(*_numbers(rewards, where), axis=-1)


def leave_one_out(
    rewards: Shaped[Any, "*batch group"], *, where: Bool[Any, "*batch group"] | None = None, ddof: int
) -> Float[Any, "*batch group"]:
    """r - mean of the group's others (RLOO, arXiv:2402.14740); `ddof` has no part in it."""
    del ddof
    rewards, where = _numbers(rewards, where)
    num = _count(rewards, where, axis=-1)
    return _centered(rewards, where, axis=-1) * num / _at_least_one(num - 1)


def group_mean_batch_std(
    rewards: Shaped[Any, "*batch group"], *, where: Bool[Any, "*batch group"] | None = None, ddof: int
) -> Float[Any, "*batch group"]:
    """(r - group's mean) / (std of the batch's rewards + 1e-6) (Lite PPO, arXiv:2508.08221): groups keep the scale of
    their own disagreement, so that a nearly solved problem does not push as hard as an undecided one."""
    rewards, where = _numbers(rewards, where)
    return _centered(rewards, where, axis=-1) / (_std(rewards, where, axis=None, ddof=ddof) + STD_EPSILON)


def batch_mean_std(
    rewards: Shaped[Any, "*batch group"], *, where: Bool[Any, "*batch group"] | None = None, ddof: int
) -> Float[Any, "*batch group"]:
    """(r - batch's mean) / (batch's std + 1e-6) (REINFORCE++, arXiv:2501.03262): the batch is one large group."""
    rewards, where = _numbers(rewards, where)
    return _centered(rewards, where, axis=None) / (_std(rewards, where, axis=None, ddof=ddof) + STD_EPSILON)


ADVANTAGES: dict[str, Callable[..., Any]] = {
    "group_mean_std": group_mean_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "group_mean_batch_std": group_mean_batch_std,
    "batch_mean_std": batch_mean_std,
}
"""Every choice of `experience.advantage`."""


def participation(
    is_judged: Sequence[bool],
    is_overlong: Sequence[bool],
    *,
    overlong: Literal["zero_advantage", "leave_group", "keep"],
) -> tuple[Bool[np.ndarray, " group"], Bool[np.ndarray, " group"]]:
    """Which rewards of a group count, and which completions train.

    A completion whose judge failed is as if it had never been drawn: neither. A cut completion, by `overlong`:

        zero_advantage    its reward counts, it does not train itself (NousCoder's environment: its advantage is set to
                          zero, so that the policy is not pushed toward shorter answers)
        leave_group       neither
        keep              nothing special: both
    """
    judged, cut = np.array(is_judged, bool), np.array(is_overlong, bool)
    return judged & ~cut if overlong == "leave_group" else judged, judged if overlong == "keep" else judged & ~cut


def _numbers(rewards: Any, where: Any) -> tuple[Any, Any]:
    """Rewards in float32 or wider, and which of them count. In their own arithmetic booleans have no difference and
    half a precision counts to 256. Raises TypeError, ValueError: no such arrays, NaN or infinity among what counts."""
    axes = " ".join(["..."] * (getattr(rewards, "ndim", 1) - 1) + ["group"])
    check("rewards", rewards, kind="number", axes=axes)
    if where is not None:
        check("where", where, kind="bool", axes=axes, shape=rewards.shape, like="rewards")
    if has_values(rewards, where):
        wrong = ~np.isfinite(np.asarray(rewards, np.float64)) & (True if where is None else np.asarray(where))
        if wrong.any():
            place = tuple(map(int, np.argwhere(wrong)[0]))
            raise ValueError(
                f"rewards has {float(rewards[place])} at {place}, expected finite numbers; a reward that was not given "
                "is left out by where"
            )
    xp = rewards.__array_namespace__()
    rewards = xp.astype(rewards, xp.result_type(rewards.dtype, xp.float32))
    return rewards, xp.ones(rewards.shape, dtype=bool) if where is None else where


def _count(rewards: Any, where: Any, *, axis: int | None) -> Any:
    return rewards.__array_namespace__().sum(where, axis=axis, keepdims=True, dtype=rewards.dtype)


def _at_least_one(number: Any) -> Any:
    return number.__array_namespace__().clip(number, 1, None)


def _centered(rewards: Any, where: Any, *, axis: int | None) -> Any:
    """r - mean where a reward counts; exactly 0 elsewhere and where all that count are equal."""
    xp = rewards.__array_namespace__()
    counted = xp.where(where, rewards, 0)
    mean = xp.sum(counted, axis=axis, keepdims=True) / _at_least_one(_count(rewards, where, axis=axis))
    largest = xp.max(xp.where(where, rewards, -xp.inf), axis=axis, keepdims=True, initial=-xp.inf)
    smallest = xp.min(xp.where(where, rewards, xp.inf), axis=axis, keepdims=True, initial=xp.inf)
    return xp.where(where & (largest > smallest), counted - mean, 0)


def _std(rewards: Any, where: Any, *, axis: int | None, ddof: int) -> Any:
    xp = rewards.__array_namespace__()
    squares = xp.sum(_centered(rewards, where, axis=axis) ** 2, axis=axis, keepdims=True)
    return xp.sqrt(squares / _at_least_one(_count(rewards, where, axis=axis) - ddof))
