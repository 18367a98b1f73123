"""Drift over its bounds, in words: which token, of which rollout, drifts most.

In: an update's metrics, its batch and the experiences in it. Out: a DriftError where its bounds were exceeded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.types import Batch, DriftError, Experience


def check_drift(
    metrics: dict[str, float], batch: Batch, experiences: Sequence[Experience], *, config: TrainConfig, step: int
) -> None:
    """Raises DriftError where the update was not taken because drift exceeded its bounds (training/update.py)."""
    if "drift_exceeded_at" not in metrics:
        return
    loss = config.loss
    raise DriftError(
        f"step {step}: trainer and engine hold the same weights, yet their logprobs of the sampled tokens differ by "
        f"{metrics['on_policy_drift_mean']:.3g} nats on average (loss.max_drift_mean {_bound(loss.max_drift_mean)}) "
        f"and by {metrics['on_policy_drift_max']:.3g} at most (loss.max_drift {_bound(loss.max_drift)}), most at "
        f"{_where(int(metrics['drift_exceeded_at']), batch, experiences)}; this update was not taken. See "
        "that the engine has the exported weights, temperature and dtype of the config, or raise the bounds"
    )


def _bound(bound: float) -> str:
    return f"{bound:g}" if bound else "off"


def _where(index: int, batch: Batch, experiences: Sequence[Experience]) -> str:
    """The token in words."""
    row, time = divmod(index, batch.tokens.shape[1])
    tokens = batch.tokens[row, batch.segment_ids[row] == batch.segment_ids[row, time]]
    rollout = next(e.rollout for e in experiences if e.trainable and np.array_equal(_token_ids(e), tokens))
    place = int(batch.positions[row, time]) + 1 - len(rollout.prompt.token_ids)
    completion = rollout.completion
    return (
        f"problem {rollout.prompt.problem_id}, group {rollout.group_id}, sample {rollout.sample_index}: token {place} "
        f"of {len(completion.token_ids)}, id {completion.token_ids[place]}, logprob "
        f"{completion.behavior_logprobs[place]:.4g} in the engine"
    )


def _token_ids(experience: Experience) -> tuple[int, ...]:
    return experience.rollout.prompt.token_ids + experience.rollout.completion.token_ids
