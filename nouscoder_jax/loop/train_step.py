"""A batch of groups becomes new weights: advantages, packed rows, orders to the trainer.

In: what a step collected. Out: the same with advantages; then the update's metrics, and how many versions it made.
"""

from __future__ import annotations

from collections.abc import Sequence

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.experience.filters import assign_advantages
from nouscoder_jax.experience.packing import pack, pick_row_tokens
from nouscoder_jax.loop.collect import told
from nouscoder_jax.loop.drift import check_gate
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.training.trainer import Trainer
from nouscoder_jax.types import Batch, Experience


def with_advantages(collected: Collected, *, config: TrainConfig) -> Collected:
    """The batch, its groups with their advantages."""
    groups = [group.experiences for group in collected.used]
    return collected.with_used(
        assign_advantages(groups, config=config.experience, group_size=config.rollout.group_size)
    )


def check_full(collected: Collected, *, config: TrainConfig, last_step: int) -> None:
    """Raises UserError where the batch is short and the config wants to stop then."""
    num_groups = config.rollout.groups_per_step
    if config.experience.short_batch == "stop" and len(collected.used) < num_groups:
        raise UserError(
            f"step {collected.step}: {len(collected.groups)} groups drawn (experience.max_draws_per_batch is "
            f"{config.experience.max_draws_per_batch}) gave {len(collected.used)} of the {num_groups} that a batch "
            f"needs ({told(collected.groups)}); use problems that the policy solves sometimes, draw more, or train "
            f"on what there is with --experience.short-batch train. Steps up to {last_step} are kept"
        )


def train_on(
    collected: Collected, trainer: Trainer, progress: Progress, *, config: TrainConfig, timer: StageTimer
) -> dict[str, float]:
    """Takes `updates_per_batch` optimizer steps, each on its share of the batch's groups, and counts versions in
    `progress`. Raises DriftError, ProcessLostError."""
    groups = collected.used
    size = max(1, -(-len(groups) // config.experience.updates_per_batch))
    shares = [
        [experience for group in groups[first : first + size] for experience in group.experiences]
        for first in range(0, len(groups), size)
    ]
    recomputes = config.loss.old_logprobs == "recomputed"
    with timer.stage("pack"):
        packed = [
            # Recomputed logprobs are all of the weights before the first update.
            _pack(share, config=config, policy_version=progress.policy_version + (0 if recomputes else number))
            for number, share in enumerate(shares)
        ]
    measured: list[dict[str, float]] = []
    with timer.stage("update"):
        old_logprobs = [trainer.logprobs(batch) if recomputes else None for batch, _ in packed]
        for share, (batch, num_micro_batches), old in zip(shares, packed, old_logprobs, strict=True):
            metrics = trainer.update(batch, num_micro_batches, old)
            check_gate(metrics, batch, share, config=config, step=collected.step)
            progress.policy_version += 1
            used = num_micro_batches * config.experience.rows_per_micro_batch
            metrics["padding_share"] = 1 - float((batch.segment_ids[:used] > 0).mean())
            measured.append(metrics)
    return {f"update/{name}": value for name, value in average(measured).items()}


def _pack(experiences: Sequence[Experience], *, config: TrainConfig, policy_version: int) -> tuple[Batch, int]:
    experience = config.experience
    return pack(
        experiences,
        row_tokens=pick_row_tokens(experiences, row_tokens=experience.row_tokens),
        rows_per_micro_batch=experience.rows_per_micro_batch,
        max_experiences=config.rollout.groups_per_step // experience.updates_per_batch * config.rollout.group_size,
        packed_rows=experience.packed_rows,
        policy_version=policy_version,
    )


def average(measured: list[dict[str, float]]) -> dict[str, float]:
    """Means over updates; maxima for `_max`, sums for `num_tokens`, the last for the learning rate. What is only
    measured on tokens of the same weights counts where there are any."""
    combined = {}
    with_same_weights = [metrics for metrics in measured if metrics["same_weights_share"] > 0]
    for name in measured[0]:
        of_same_weights = name.startswith("same_weights_drift") and with_same_weights
        values = [metrics[name] for metrics in (of_same_weights or measured)]
        if name == "learning_rate":
            combined[name] = values[-1]
        elif name == "num_tokens":
            combined["trained_tokens"] = sum(values)
        else:
            combined[name] = max(values) if name.endswith("_max") else sum(values) / len(values)
    return combined
