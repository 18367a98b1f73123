"""A batch of groups becomes new weights: advantages, packed rows, orders to the trainer.

In: what a step collected. Out: the same with advantages; then the update's metrics, and how many versions it made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.experience.filters import assign_advantages
from nouscoder_jax.experience.packing import pack, pick_row_tokens
from nouscoder_jax.loop.collect import told
from nouscoder_jax.loop.drift import check_drift
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics import names
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.training import objective
from nouscoder_jax.training.trainer import Trainer
from nouscoder_jax.training.update import UpdateMetrics
from nouscoder_jax.types import Batch, DivergedError, Experience


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
    """Takes `updates_per_batch` optimizer steps, each on its share of the batch's groups, and counts versions and
    skipped updates in `progress`. Raises DriftError, DivergedError, ProcessLostError."""
    groups = collected.used
    size = max(1, -(-len(groups) // config.experience.updates_per_batch))
    shares = [
        [experience for group in groups[first : first + size] for experience in group.experiences]
        for first in range(0, len(groups), size)
    ]
    packed: list[tuple[Batch, int]] = []
    olds: list[np.ndarray | None] = [None] * len(shares)
    if config.loss.old_logprobs == "recomputed":  # all of the weights before the first update
        with timer.stage("pack"):
            packed = [_pack(share, config=config, policy_version=progress.policy_version) for share in shares]
        with timer.stage("update"):
            olds = [trainer.logprobs(batch, num_micro_batches) for batch, num_micro_batches in packed]
    measured: list[UpdateMetrics] = []
    for number, (share, old) in enumerate(zip(shares, olds, strict=True)):
        if old is None:  # packed now: an update that is not taken leaves the version as it is
            with timer.stage("pack"):
                packed.append(_pack(share, config=config, policy_version=progress.policy_version))
        batch, num_micro_batches = packed[number]
        with timer.stage("update"):
            metrics = trainer.update(batch, num_micro_batches, old)
        check_drift(metrics, batch, share, config=config, step=collected.step)
        _count(metrics, progress, config=config, step=collected.step)
        used = batch.segment_ids[: num_micro_batches * config.experience.rows_per_micro_batch]
        metrics["padding_share"] = 1 - float((used > 0).mean())
        metrics.counts["padding_share"] = float(used.size)
        measured.append(metrics)
    return {f"update/{name}": value for name, value in join(measured).items()}


def _count(metrics: UpdateMetrics, progress: Progress, *, config: TrainConfig, step: int) -> None:
    if not metrics["skipped"]:
        progress.policy_version += 1
        progress.skipped_in_a_row = 0
        return
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= config.optimizer.max_skipped:
        raise DivergedError(
            f"step {step}: {progress.skipped_in_a_row} updates in a row were not finite (loss {metrics['loss']:g}, "
            f"gradient norm {metrics['grad_norm']:g}) and were not taken; optimizer.max_skipped is "
            f"{config.optimizer.max_skipped}. The weights are those before: lower optimizer.learning_rate, or see what "
            "these rollouts hold"
        )


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


def metric_names(config: TrainConfig) -> set[str]:
    """What `train_on` measures with this config; found without computing anything."""
    # As training/update.py and train_on name them.
    of_updates = {"loss", "grad_norm", "learning_rate", "trained_tokens", "skipped", "padding_share"}
    measured = objective.metric_names(config, loss_name=config.loss.name)
    return {f"update/{name}" for name in of_updates | measured}


def join(measured: Sequence[UpdateMetrics]) -> dict[str, float]:
    """What the updates of a step measured together, each metric by its reduction (metrics/names.py). What no update
    measured is absent; updates that were not taken count as skipped and in nothing else."""
    taken = [metrics for metrics in measured if not metrics["skipped"]]
    joined = {"skipped": sum(metrics["skipped"] for metrics in measured)}
    for name in {name: None for metrics in taken for name in metrics if name != "skipped"}:
        having = [metrics for metrics in taken if name in metrics]
        values = [metrics[name] for metrics in having]
        counts = [metrics.counts.get(name, 0.0) for metrics in having]
        name = "trained_tokens" if name == "num_tokens" else name
        joined[name] = _reduce(values, counts, names.METRICS[f"update/{name}"].reduction)
    return joined


def _reduce(values: Sequence[float], counts: Sequence[float], reduction: names.Reduction) -> float:
    """`counts`: over how much each value is a mean; all 0 where an update is what counts."""
    if reduction == "mean":
        weights = counts if sum(counts) > 0 else [1.0] * len(values)
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
    return {"max": max, "sum": sum, "last": lambda values: values[-1]}[reduction](values)
