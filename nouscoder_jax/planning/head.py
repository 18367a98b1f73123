"""What the head of a run costs: process 0, which sends every batch to all others and alone talks to the engines.

In: a config, its step, a placement. Out: bytes and seconds of a step's orders, JSON a second from the engines.
"""

from __future__ import annotations

from dataclasses import dataclass

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.planning.costs import Workload
from nouscoder_jax.planning.fleet import machines

BATCH_BYTES_PER_TOKEN = 26
"""Of an order to update: four int32, two booleans, two float32 a position (types.Batch)."""

OLD_LOGPROBS_BYTES = 4
"""A position, where old logprobs are recomputed; the order to compute them carries the batch once more."""

JSON_BYTES_PER_TOKEN = 39
"""Of SGLang's answer: a logprob, an id and null in a list, and the id once more. SGLang 0.5.23 sends 33 with ids of
three digits; here they have six."""

ORDER_BYTES_PER_S = 0.5e9
"""What one process puts on the wire to all others together: it pickles nothing and copies once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCost:
    """Of one step, where so many GPUs train.

    Example:
        HeadCost(train_gpus=48, processes=6, order_bytes=3.6e9, order_s=7.2, json_bytes_per_s=1.9e6)
    """

    train_gpus: int
    processes: int
    order_bytes: float
    """To all hands together."""
    order_s: float
    json_bytes_per_s: float
    """From all engines together, in the mean over the step."""


def head_cost(
    config: TrainConfig, workload: Workload, *, train_gpus: int, rows_per_micro_batch: int, step_s: float
) -> HeadCost:
    """One process a machine of GPUs that train; rows that are all padding are not sent."""
    processes = machines(train_gpus)
    rows = workload.updates * workload.micro_batches(rows_per_micro_batch) * rows_per_micro_batch
    per_token = BATCH_BYTES_PER_TOKEN
    if config.loss.old_logprobs == "recomputed":
        per_token += BATCH_BYTES_PER_TOKEN + OLD_LOGPROBS_BYTES
    order_bytes = float((processes - 1) * rows * workload.row_tokens * per_token)
    tokens = workload.generated_sequences * workload.completion_tokens
    return HeadCost(
        train_gpus=train_gpus,
        processes=processes,
        order_bytes=order_bytes,
        order_s=order_bytes / ORDER_BYTES_PER_S,
        json_bytes_per_s=tokens * JSON_BYTES_PER_TOKEN / step_s,
    )


def assumptions() -> list[str]:
    """Every assumption behind the head's costs, for people."""
    return [
        f"the head (process 0; a process a machine of GPUs that train) sends each other process the whole batch, "
        f"{BATCH_BYTES_PER_TOKEN} bytes a position, at {ORDER_BYTES_PER_S / 1e9:g} GB/s to all together, and reads "
        f"{JSON_BYTES_PER_TOKEN} bytes of JSON a generated token",
    ]
