"""Experiences become a batch of fixed shape: several sequences one after another in each row, packed by Grain.

In: experiences. Out: a `Batch` and how many of its micro-batches hold anything. Nothing is cut and nothing is left out
but what cannot contribute: experiences that are not trainable take no space, and so no part of any denominator either
(DAPO's mean over tokens counts the tokens of trainable experiences only). A trainable experience whose advantage
happens to be 0 stays: its tokens weigh in that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from nouscoder_jax.types import Batch, Experience

FEATURES = ("tokens", "targets", "loss_mask", "on_policy", "behavior_logprobs", "advantages")


def pick_row_tokens(experiences: Sequence[Experience], *, row_tokens: int) -> int:
    """The smallest of row_tokens, 1/2, 1/4 and 1/8 of it that holds the longest trainable experience.

    Four lengths at most, so that at most four programs are compiled; short rows, because attention costs their square.
    Raises ValueError where an experience is longer than `row_tokens`.
    """
    longest = max((_num_tokens(e) for e in experiences if e.trainable), default=0)
    if longest > row_tokens:
        raise ValueError(f"an experience has {longest} tokens, a row {row_tokens}; raise experience.row_tokens")
    return min(length for part in (1, 2, 4, 8) if (length := row_tokens // part) >= longest and length > 0)


def pack(
    experiences: Sequence[Experience],
    *,
    row_tokens: int,
    rows_per_micro_batch: int,
    max_experiences: int,
    packed_rows: bool,
    policy_version: int,
) -> tuple[Batch, int]:
    """The batch, and the number of its micro-batches that hold anything; the rest is padding.

    Rows: `max_experiences` rounded up to whole micro-batches, whatever is packed. That is always enough, since no
    experience needs more than a row of its own, and always the same, so that `update` is compiled once. Longest first,
    ties in the given order, each into the first row with room, or without `packed_rows` each into a row of its own: the
    same experiences give the same batch. `policy_version` is of the weights that the engine's logprobs are compared
    with: it says which tokens are of `on_policy`. Raises ValueError for more experiences than `max_experiences` or
    one longer than a row.
    """
    trainable = sorted((e for e in experiences if e.trainable), key=_num_tokens, reverse=True)
    if len(trainable) > max_experiences:
        raise ValueError(
            f"{len(trainable)} experiences for a batch of at most {max_experiences}; raise max_experiences"
        )
    if trainable and _num_tokens(trainable[0]) > row_tokens:
        raise ValueError(f"an experience has {_num_tokens(trainable[0])} tokens, a row {row_tokens}")
    num_rows = -(-max_experiences // rows_per_micro_batch) * rows_per_micro_batch
    batch = _empty(num_rows, row_tokens)
    arrays = [_sequence(experience, policy_version=policy_version) for experience in trainable]
    sequences = [arrays] if packed_rows else [[sequence] for sequence in arrays]
    rows = [row for together in sequences for row in _first_fit(together, row_tokens=row_tokens)]
    for index, row in enumerate(rows):
        for name in FEATURES:
            getattr(batch, name)[index] = row[name]
        batch.positions[index] = row["tokens_positions"]
        batch.segment_ids[index] = row["tokens_segment_ids"]
    return batch, -(-len(rows) // rows_per_micro_batch)


def one_a_row(sequences: Sequence[Sequence[int]], *, row_tokens: int, rows_per_micro_batch: int) -> tuple[Batch, int]:
    """A batch in which each sequence has a row of its own, none of its tokens trains, and the target of each position
    is the token after it; and the number of its micro-batches. Raises ValueError for one longer than a row."""
    num_micro_batches = -(-len(sequences) // rows_per_micro_batch)
    batch = _empty(num_micro_batches * rows_per_micro_batch, row_tokens)
    for row, sequence in enumerate(sequences):
        if len(sequence) > row_tokens:
            raise ValueError(f"a sequence has {len(sequence)} tokens, a row {row_tokens}")
        batch.tokens[row, : len(sequence)] = sequence
        batch.targets[row, : len(sequence) - 1] = sequence[1:]
        batch.positions[row, : len(sequence)] = range(len(sequence))
        batch.segment_ids[row, : len(sequence)] = 1
    return batch, num_micro_batches


def _first_fit(sequences: list[dict[str, np.ndarray]], *, row_tokens: int) -> list[dict[str, Any]]:
    """Rows that hold all sequences, each in the first row with room."""
    if not sequences:
        return []
    # First fit leaves at most one row half empty, so this many rows hold everything and Grain never flushes early.
    num_bins = min(len(sequences), 2 * sum(len(s["tokens"]) for s in sequences) // row_tokens + 1)
    packed = grain.experimental.FirstFitPackIterDataset(
        grain.MapDataset.source(sequences).to_iter_dataset(grain.ReadOptions(num_threads=0)),
        length_struct=dict.fromkeys(FEATURES, row_tokens),
        num_packing_bins=num_bins,
        shuffle_bins=False,
    )
    return [row for row in packed if np.any(row["tokens_segment_ids"])]


def _sequence(experience: Experience, *, policy_version: int) -> dict[str, np.ndarray]:
    """The arrays of one experience, one entry a token; a completion token is the target of the position before it."""
    rollout = experience.rollout
    ids = np.array(rollout.prompt.token_ids + rollout.completion.token_ids, np.int32)
    first = len(rollout.prompt.token_ids) - 1
    loss_mask = np.zeros(len(ids), bool)
    loss_mask[first:-1] = rollout.completion.loss_mask or True
    on_policy = np.zeros(len(ids), bool)
    on_policy[first:-1] = np.equal(rollout.completion.token_versions, policy_version)
    behavior_logprobs = np.zeros(len(ids), np.float32)
    behavior_logprobs[first:-1] = rollout.completion.behavior_logprobs
    return {
        "tokens": ids,
        "targets": np.append(ids[1:], np.int32(0)),
        "loss_mask": loss_mask,
        "on_policy": on_policy,
        "behavior_logprobs": behavior_logprobs,
        "advantages": np.full(len(ids), experience.advantage, np.float32),
    }


def _num_tokens(experience: Experience) -> int:
    """Prompt and completion."""
    return len(experience.rollout.prompt.token_ids) + len(experience.rollout.completion.token_ids)


def _empty(rows: int, time: int) -> Batch:
    """Padding only."""
    shape = (rows, time)
    return Batch(
        tokens=np.zeros(shape, np.int32),
        targets=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        segment_ids=np.zeros(shape, np.int32),
        loss_mask=np.zeros(shape, bool),
        on_policy=np.zeros(shape, bool),
        behavior_logprobs=np.zeros(shape, np.float32),
        advantages=np.zeros(shape, np.float32),
    )
