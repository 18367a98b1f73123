"""What the head of a run costs: process 0, which sends every batch to all others and alone talks to the engines.

In: a config, its step, a placement. Out: bytes and seconds of a step's orders, JSON a second from the engines. No jax.
"""

from __future__ import annotations

from dataclasses import dataclass

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.planning.costs import Workload
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE

BATCH_BYTES_PER_TOKEN = 26
"""Of an order to update: four int32, two booleans, two float32 a position (types.Batch)."""

OLD_LOGPROBS_BYTES = 4
"""A position, where old logprobs are recomputed; the order to compute them carries the batch once more."""

JSON_BYTES_PER_TOKEN = 45
"""Of SGLang's answer: a logprob, an id and null in a list, and the id once more (tests measure it on a real server)."""

ORDER_BYTES_PER_S = 0.5e9
"""What one process puts on the wire to all others together: pickles nothing, copies once; an assumption, half of what it
reaches over loopback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCost:
    """Of one step.

    Example:
        HeadCost(processes=6, order_bytes=3.6e9, order_s=7.2, json_bytes_per_s=1.9e6)
    """

    processes: int
    order_bytes: float
    """To all hands together."""
    order_s: float
    json_bytes_per_s: float


def head_cost(
    config: TrainConfig, workload: Workload, *, train_gpus: int, rows_per_micro_batch: int, step_s: float
) -> HeadCost:
    """One process a machine of `train_gpus`; rows that are all padding are not sent."""
    processes = max(1, -(-train_gpus // GPUS_PER_MACHINE))
    rows = workload.updates * workload.micro_batches(rows_per_micro_batch) * rows_per_micro_batch
    per_token = BATCH_BYTES_PER_TOKEN
    if config.loss.old_logprobs == "recomputed":
        per_token += BATCH_BYTES_PER_TOKEN + OLD_LOGPROBS_BYTES
    order_bytes = (processes - 1) * rows * workload.row_tokens * per_token
    tokens = workload.generated_sequences * workload.completion_tokens
    return HeadCost(
        processes=processes,
        order_bytes=float(order_bytes),
        order_s=order_bytes / ORDER_BYTES_PER_S,
        json_bytes_per_s=tokens * JSON_BYTES_PER_TOKEN / step_s,
    )
