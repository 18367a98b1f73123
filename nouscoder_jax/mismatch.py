"""What to do where the engine that drew the tokens and the trainer disagree about their probabilities.

In: `old_logprobs`, the trainer's own before the batch's first update, and `behavior_logprobs`, the engine's as it
sampled. Out: `importance_weights` or a narrower `where` for the objectives of losses.py, and measures of disagreement.

    k_t = pi_old(y_t) / pi_behavior(y_t)          its logarithm is clamped to +-20
    k_i = exp(1/T_i sum_t log k_t)                geometric mean over sequence i

    truncated_weights          min(k_t, max)                       biased a little, bounded
    icepop_weights             k_t in [min, max], else 0           tokens that disagree too much push nothing
    sequence_rejection_mask    where, without i if k_i is outside  sequences that disagree too much were never drawn
    decoupled_weights          k_t                                 unbiased; old_logprobs is then the proximal policy

Needs nothing but jax (and its numpy). Nothing here has a gradient; what stands outside `where` may be anything, and its
weight is 1. A token of weight 0 still counts in the denominators of a loss; one that `where` leaves out does not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from nouscoder_jax.arguments import check_tokens
from nouscoder_jax.losses import Max, Mean, k3_kl, sequence_log_ratio, token_log_ratio, token_mean

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Float32, Int


def truncated_weights(
    old_logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
    max_weight: float,
) -> Float32[Array, "rows time"]:
    """Truncated importance sampling, min(k_t, max_weight) (Ionides 2008; for engines and trainers: Yao et al. 2025,
    "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", with 2)."""
    check_tokens(where, old_logprobs=old_logprobs, behavior_logprobs=behavior_logprobs)
    return jnp.minimum(decoupled_weights(old_logprobs, behavior_logprobs, where=where), max_weight)


def icepop_weights(
    old_logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
    min_weight: float,
    max_weight: float,
) -> Float32[Array, "rows time"]:
    """IcePop (arXiv:2510.18855, with 0.5 and 5): k_t where min_weight <= k_t <= max_weight, else 0."""
    check_tokens(where, old_logprobs=old_logprobs, behavior_logprobs=behavior_logprobs)
    weights = decoupled_weights(old_logprobs, behavior_logprobs, where=where)
    return jnp.where((weights >= min_weight) & (weights <= max_weight), weights, 0.0)


def sequence_rejection_mask(
    old_logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
    segment_ids: Int[Array, "rows time"] | None,
    min_ratio: float,
    max_ratio: float,
) -> Bool[Array, "rows time"]:
    """Rejection of whole sequences: `where`, but False all over sequence i unless min_ratio <= k_i <= max_ratio.

    The geometric mean, so that the bounds mean the same at every length; they lie close to 1 (Liu, Li et al. 2025,
    "When Speed Kills Stability: Demystifying RL Collapse from the Training-Inference Mismatch", part 3).
    """
    check_tokens(where, old_logprobs=old_logprobs, behavior_logprobs=behavior_logprobs)
    log_ratio = sequence_log_ratio(old_logprobs, behavior_logprobs, where=where, segment_ids=segment_ids)
    ratio = jnp.exp(log_ratio)
    return where & (ratio >= min_ratio) & (ratio <= max_ratio)


def decoupled_weights(
    proximal_logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
) -> Float32[Array, "rows time"]:
    """Decoupled PPO (arXiv:2110.00641; for asynchronous training arXiv:2505.24298): k_t as it is.

    The proximal policy keeps steps small, the behavior policy only corrects for where the tokens came from:

        weights = decoupled_weights(proximal_logprobs, behavior_logprobs, where=where)
        dapo_loss(logprobs, proximal_logprobs, advantages, importance_weights=weights, where=where, ...)
    """
    check_tokens(where, proximal_logprobs=proximal_logprobs, behavior_logprobs=behavior_logprobs)
    return jax.lax.stop_gradient(jnp.exp(token_log_ratio(proximal_logprobs, behavior_logprobs, where=where)))


def drift_metrics(
    logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
) -> dict[str, Mean | Max]:
    """How far trainer and engine are apart, over counted tokens and in nats; all 0 where they agree.

    drift_mean, drift_max    |log pi_trainer - log pi_engine|
    drift_kl                 k3 estimate of KL(pi_engine || pi_trainer), unbiased since the engine drew the tokens
    """
    check_tokens(where, logprobs=logprobs, behavior_logprobs=behavior_logprobs)
    drift = jax.lax.stop_gradient(_distance(logprobs, behavior_logprobs, where))
    kl = jax.lax.stop_gradient(k3_kl(behavior_logprobs, logprobs, where=where))
    return {
        "drift_mean": token_mean(drift, where=where),
        "drift_max": Max(jnp.max(drift, initial=0.0)),
        "drift_kl": token_mean(kl, where=where),
    }


def largest_drift(
    logprobs: Float[Array, "rows time"],
    behavior_logprobs: Float[Array, "rows time"],
    *,
    where: Bool[Array, "rows time"],
) -> tuple[Float32[Array, ""], Int[Array, ""], Int[Array, ""]]:
    """The largest |log pi_trainer - log pi_engine| of a counted token, and its row and time; the first of several. NaN
    is infinitely large."""
    check_tokens(where, logprobs=logprobs, behavior_logprobs=behavior_logprobs)
    drift = _distance(logprobs, behavior_logprobs, where)
    drift = jnp.where(jnp.isnan(drift), jnp.inf, drift)
    row, time = jnp.divmod(jnp.argmax(drift), drift.shape[1])
    return jnp.max(drift), row, time


def _distance(logprobs: Array, behavior_logprobs: Array, where: Array) -> Array:
    difference = logprobs.astype(jnp.float32) - behavior_logprobs.astype(jnp.float32)
    return jnp.where(where, jnp.abs(difference), 0.0)
