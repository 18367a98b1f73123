"""Our side of `bench.py conformance`: our functions on one input, and the same with another's definition.

In: arrays of one input (`inputs`). Out: values and gradients by name. Plain names are our definitions; a
name with a comma is ours with a stated difference of some library put in, nothing else changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nouscoder_jax import losses, mismatch
from nouscoder_jax.bench.conformance.inputs import SETTINGS
from nouscoder_jax.experience import advantages

Ours = Callable[[SimpleNamespace], jax.Array]
"""Arrays of one input as attributes -> a loss, or the values of a part that has no gradient."""

_S = SimpleNamespace(**SETTINGS)
_TOKEN = dict(clip_low=_S.clip_low, clip_high=_S.clip_high)
_SEQUENCE = dict(clip_low=_S.sequence_clip_low, clip_high=_S.sequence_clip_high)


def compute(name: str, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Value and, for a loss, gradient with respect to `logprobs`."""
    arrays = {key: jnp.asarray(array) for key, array in inputs.items()}
    if name in PARTS:
        return np.asarray(PARTS[name](SimpleNamespace(**arrays))), None

    def loss(logprobs: jax.Array) -> jax.Array:
        return LOSSES[name](SimpleNamespace(**(arrays | {"logprobs": logprobs})))

    value, gradient = jax.value_and_grad(loss)(arrays["logprobs"])
    return np.asarray(value), np.asarray(gradient)


def _objective(function: Callable[..., Any], **settings: Any) -> Ours:
    return lambda case: _loss(case, function, **settings)


def _loss(case: SimpleNamespace, function: Callable[..., Any] = losses.dapo_loss, **settings: Any) -> jax.Array:
    settings = {"where": case.mask} | _TOKEN | settings
    return function(case.logprobs, case.old_logprobs, case.advantages, **settings)[0].value()


def _mismatch(function: Callable[..., jax.Array], **bounds: Any) -> Ours:
    """Weights, or the mask of what is kept, from the engine's logprobs."""
    return lambda case: function(case.old_logprobs, case.behavior_logprobs, where=case.mask, **bounds)


def _corrected(*factors: Ours) -> Ours:
    return lambda case: _loss(case, importance_weights=math.prod(factor(case) * 1.0 for factor in factors))


def _rejected(kept: Ours) -> Ours:
    return lambda case: _loss(case, where=kept(case))


def _rejection(min_ratio: float, max_ratio: float) -> Ours:
    bounds = {"min_ratio": min_ratio, "max_ratio": max_ratio}
    return _mismatch(mismatch.sequence_rejection_mask, segment_ids=None, **bounds)


def _times(loss: Ours, factor: Ours) -> Ours:
    return lambda case: loss(case) * factor(case)


def _rows_kept(case: SimpleNamespace) -> jax.Array:
    """Share of rows with a counted token."""
    return jnp.mean(jnp.any(case.mask, axis=1))


def _sequence_weights(case: SimpleNamespace) -> jax.Array:
    return jnp.exp(
        losses.sequence_log_ratio(case.old_logprobs, case.behavior_logprobs, where=case.mask, segment_ids=None)
    )


def _k3(at_most: float) -> Ours:
    def mean(case: SimpleNamespace) -> jax.Array:
        kl = losses.k3_kl(case.logprobs, case.reference_logprobs, where=case.mask)
        return losses.token_mean(jnp.minimum(kl, at_most), where=case.mask).value()

    return mean


def _penalty(case: SimpleNamespace) -> jax.Array:
    return losses.soft_overlong_penalty(case.num_tokens, max_tokens=_S.max_tokens, buffer_tokens=_S.buffer_tokens)


def _penalty_without_floor(case: SimpleNamespace) -> jax.Array:
    return _penalty(case) - jnp.maximum((case.num_tokens - _S.max_tokens) / _S.buffer_tokens, 0.0)


def _within_group_batch_std(case: SimpleNamespace) -> jax.Array:
    centered = case.rewards - case.rewards.mean(axis=-1, keepdims=True)
    return centered / (jnp.sqrt((centered**2).sum() / (centered.size - 1)) + advantages.STD_EPSILON)


_kept, _decoupled = _rejection(_S.min_ratio, _S.max_ratio), _mismatch(mismatch.decoupled_weights)
_dapo = _objective(losses.dapo_loss)
_grpo = _objective(losses.grpo_loss)
_dr_grpo = _objective(losses.dr_grpo_loss, normalizer_tokens=float(_S.normalizer_tokens))
_gspo = _objective(losses.gspo_loss, **_SEQUENCE)
_gspo_plus = _objective(losses.gspo_plus_loss, **_SEQUENCE)

LOSSES: dict[str, Ours] = {
    "grpo": _grpo,
    "grpo, masked rows counted": _times(_grpo, _rows_kept),
    "dr_grpo": _dr_grpo,
    "dr_grpo, masked rows counted": _times(_dr_grpo, _rows_kept),
    "dapo": _dapo,
    "gspo": _gspo,
    "gspo, masked rows counted": _times(_gspo, _rows_kept),
    "gspo_plus": _gspo_plus,
    "gspo_plus, summed over tokens": _times(_gspo_plus, lambda case: jnp.sum(case.mask) / len(case.mask)),
    "cispo": _objective(losses.cispo_loss),
    "cispo, no lower clip": _objective(losses.cispo_loss, clip_low=1.0),
    "dual_clip": _objective(losses.dapo_loss, dual_clip=_S.dual_clip),
    "tis": _corrected(_mismatch(mismatch.truncated_weights, max_weight=_S.max_weight)),
    "icepop": _corrected(_mismatch(mismatch.icepop_weights, min_weight=_S.min_weight, max_weight=_S.icepop_max_weight)),
    "decoupled": _corrected(_decoupled),
    "sequence_rejection": _rejected(_kept),
    "sequence_rejection, inverse ratio": _rejected(_rejection(1.0 / _S.max_ratio, 1.0 / _S.min_ratio)),
    "sequence_rejection, denominator kept": _corrected(_kept),
    "sequence_rejection, weighted by token": _corrected(_kept, _decoupled),
    "sequence_rejection, weighted by sequence": _corrected(_kept, _sequence_weights),
    "k3_kl": _k3(math.inf),
    "k3_kl, at most 10": _k3(10.0),
}
"""Ours that are differentiated."""

PARTS: dict[str, Ours] = {
    "group_mean_std": lambda case: advantages.group_mean_std(case.rewards, ddof=1),
    "equal_rewards": lambda case: advantages.group_mean_std(case.equal_rewards, ddof=1),
    "group_mean_batch_std": lambda case: advantages.group_mean_batch_std(case.rewards, ddof=1),
    "group_mean_batch_std, around group means": _within_group_batch_std,
    "batch_mean_std": lambda case: advantages.batch_mean_std(case.rewards, ddof=1),
    "group_mean": lambda case: advantages.group_mean(case.rewards, ddof=1),
    "leave_one_out": lambda case: advantages.leave_one_out(case.rewards, ddof=1),
    "overlong": _penalty,
    "overlong, no floor": _penalty_without_floor,
    "entropy": lambda case: jnp.where(case.mask, losses.token_entropy(case.logits), 0.0),
}
"""Ours that are values only."""
