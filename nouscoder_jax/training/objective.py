"""The objective that a config asks for, as one function of a micro-batch's logprobs; and its bounds on drift.

In: the config's loss section, and on a device logprobs, entropy and a `Batch`. Out: the loss's `Mean`, metrics, and the
token where trainer and engine are farthest apart. losses.py and mismatch.py compute; what is chosen is chosen here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32

from nouscoder_jax import losses, mismatch
from nouscoder_jax.config import LossConfig, LossName, TrainConfig
from nouscoder_jax.losses import Max, Mean, token_mean
from nouscoder_jax.types import Batch

LOSSES: dict[str, Callable[..., tuple[Mean, dict[str, Mean | Max]]]] = {
    name: getattr(losses, f"{name}_loss") for name in (*typing.get_args(LossName), "supervised")
}
"""Every objective by name; `supervised` is the warm start's and no choice of LossConfig."""


class LargestDrift(NamedTuple):
    """The token whose two logprobs differ most, of those drawn with the very weights they are compared with.

    Example:
        LargestDrift(drift=jnp.float32(0.7), index=jnp.int32(1041))
    """

    drift: Float32[Array, ""]
    """Nats; 0 where there is no such token."""
    index: Int32[Array, ""]
    """Row * time + position: of the arrays given, later of the whole batch."""


class Measured(NamedTuple):
    """What one micro-batch gives besides its gradient.

    Example:
        Measured(loss=Mean(...), metrics={...}, num_tokens=jnp.float32(4096.0), largest_drift=LargestDrift(...))
    """

    loss: Mean
    metrics: dict[str, Mean | Max]
    num_tokens: Float32[Array, ""]
    """Trained tokens, those that a correction left out included."""
    largest_drift: LargestDrift


Objective = Callable[[Array, Array, Array, Batch], Measured]
"""objective(logprobs, entropy, old_logprobs, batch)"""


def make_objective(config: TrainConfig, *, loss_name: str) -> Objective:
    """The named objective with the config's clip ranges, correction and those knobs that its function takes."""
    if loss_name == "supervised":
        return _supervised
    function, loss_config = LOSSES[loss_name], config.loss
    knobs = {
        "clip_low": loss_config.clip_low,
        "clip_high": loss_config.clip_high,
        "dual_clip": loss_config.dual_clip,
        "normalizer_tokens": float(config.rollout.max_completion_tokens),
    }
    taken = inspect.signature(function).parameters
    knobs = {name: value for name, value in knobs.items() if name in taken}

    def objective(logprobs: Array, entropy: Array, old_logprobs: Array, batch: Batch) -> Measured:
        where, weights = _correct(loss_config, old_logprobs, batch)
        loss, metrics = function(
            logprobs,
            old_logprobs,
            batch.advantages,
            where=where,
            segment_ids=batch.segment_ids,
            importance_weights=weights,
            entropy=entropy,
            **knobs,
        )
        trainers = old_logprobs if loss_config.old_logprobs == "recomputed" else jax.lax.stop_gradient(logprobs)
        drift, largest_drift = _drift(trainers, batch)
        corrected = {
            "importance_weight_mean": token_mean(jnp.where(where, weights, 0.0), where=batch.loss_mask),
            "rejected_share": token_mean((~where | (weights == 0)).astype(jnp.float32), where=batch.loss_mask),
        }
        return Measured(loss, metrics | drift | corrected, _num_tokens(batch), largest_drift)

    return objective


def metric_names(config: TrainConfig, *, loss_name: str) -> set[str]:
    """What the objective measures; found without computing anything."""
    rows, time = 1, 2
    numbers = jax.ShapeDtypeStruct((rows, time), jnp.float32)
    ids, flags = (jax.ShapeDtypeStruct((rows, time), dtype) for dtype in (jnp.int32, jnp.bool_))
    batch = Batch(
        tokens=ids,
        targets=ids,
        positions=ids,
        segment_ids=ids,
        loss_mask=flags,
        on_policy=flags,
        behavior_logprobs=numbers,
        advantages=numbers,
    )
    objective = make_objective(config, loss_name=loss_name)
    return set(jax.eval_shape(objective, numbers, numbers, numbers, batch).metrics)


def within_bounds(config: LossConfig, drift_mean: Array, drift_max: Array) -> Bool[Array, ""]:
    """Whether an update may be taken: drift between engine and trainer, over tokens that the engine drew with the very
    weights that are trained, exceeds neither `loss.max_drift_mean` nor `loss.max_drift` (0: no bound) and is no NaN."""
    mean_fits = drift_mean <= config.max_drift_mean if config.max_drift_mean else jnp.bool_(True)
    return mean_fits & (drift_max <= config.max_drift) if config.max_drift else mean_fits


def pick_old_logprobs(config: LossConfig, loss_name: str, batch: Batch, old_logprobs: np.ndarray | None) -> np.ndarray:
    """The denominator of the ratio. Raises ValueError where it should have been recomputed and was not."""
    if config.old_logprobs == "behavior" or loss_name == "supervised":
        return batch.behavior_logprobs
    if old_logprobs is None:
        raise ValueError("loss.old_logprobs is recomputed: give update the logprobs from make_token_logprobs")
    return old_logprobs


def _supervised(logprobs: Array, entropy: Array, old_logprobs: Array, batch: Batch) -> Measured:
    """Nobody drew these tokens: nothing drifts."""
    del old_logprobs
    loss, metrics = losses.supervised_loss(logprobs, where=batch.loss_mask)
    metrics |= {"entropy": token_mean(jax.lax.stop_gradient(entropy), where=batch.loss_mask)}
    return Measured(loss, metrics, _num_tokens(batch), LargestDrift(jnp.float32(0.0), jnp.int32(0)))


def _num_tokens(batch: Batch) -> Float32[Array, ""]:
    return jnp.sum(batch.loss_mask, dtype=jnp.float32)


def _correct(
    config: LossConfig, old_logprobs: Array, batch: Batch
) -> tuple[Bool[Array, "rows time"], Float[Array, "rows time"]]:
    """Tokens that the objective counts, and the weight of each."""
    arrays = (old_logprobs, batch.behavior_logprobs)
    where, ones = batch.loss_mask, jnp.ones(old_logprobs.shape)
    match config.correction:
        case "none":
            return where, ones
        case "truncated":
            return where, mismatch.truncated_weights(*arrays, where=where, max_weight=config.max_ratio)
        case "icepop":
            return where, mismatch.icepop_weights(
                *arrays, where=where, min_weight=config.min_ratio, max_weight=config.max_ratio
            )
        case "decoupled":
            return where, mismatch.decoupled_weights(*arrays, where=where)
        case "sequence_rejection":
            kept = mismatch.sequence_rejection_mask(
                *arrays,
                where=where,
                segment_ids=batch.segment_ids,
                min_ratio=config.min_ratio,
                max_ratio=config.max_ratio,
            )
            return kept, ones


def _drift(trainers_logprobs: Array, batch: Batch) -> tuple[dict[str, Mean | Max], LargestDrift]:
    """Drift over all trained tokens, and over those that are on-policy, which have bounds."""
    arrays = (trainers_logprobs, batch.behavior_logprobs)
    same = batch.loss_mask & batch.on_policy
    of_same = mismatch.drift_metrics(*arrays, where=same)
    largest, row, time = mismatch.largest_drift(*arrays, where=same)
    metrics = mismatch.drift_metrics(*arrays, where=batch.loss_mask) | {
        "on_policy_share": token_mean(same.astype(jnp.float32), where=batch.loss_mask),
        "on_policy_drift_mean": of_same["drift_mean"],
        "on_policy_drift_max": of_same["drift_max"],
    }
    return metrics, LargestDrift(largest, (row * same.shape[1] + time).astype(jnp.int32))
