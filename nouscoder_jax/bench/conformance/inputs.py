"""Random inputs of `bench.py conformance`: what every library and ours are given.

In: a seed. Out: arrays by name for several shapes, and the settings that all objectives share.

    logprobs, old_logprobs, behavior_logprobs, reference_logprobs    "rows time", nats
    mask           "rows time", True where a token counts; rows end in padding, one row has a gap in its middle
    advantages     "rows", both signs
    logits         "rows time vocab"
    rewards        "groups group"; in equal_rewards every group agrees with itself
    num_tokens     "completions", lengths around the soft overlong penalty's bend
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, float | int] = {
    "clip_low": 0.2,
    "clip_high": 0.28,
    "sequence_clip_low": 0.05,
    "sequence_clip_high": 0.08,
    "dual_clip": 3.0,
    "normalizer_tokens": 48,
    "max_weight": 2.0,
    "min_weight": 0.5,
    "icepop_max_weight": 5.0,
    "min_ratio": 0.9,
    "max_ratio": 1.1,
    "max_tokens": 96,
    "buffer_tokens": 32,
}
"""Sequence clips are wider than GSPO's own (3e-4), so that random sequences fall on both sides of either."""

_TIME = 48
LENGTHS = {
    "even": (48, 48, 48, 48, 48, 48),
    "uneven": (48, 1, 3, 40, 17, 2, 33, 9),
    "one row masked": (20, 48, 0, 7, 1, 31, 12, 5),
}
"""Counted and uncounted tokens of each row before its padding."""


def make(*, seed: int, num_seeds: int) -> dict[str, dict[str, np.ndarray]]:
    """`num_seeds` inputs of every shape, by name such as "uneven, seed 1"."""
    seeds = range(seed, seed + num_seeds)
    return {f"{shape}, seed {one}": _one(LENGTHS[shape], one) for one in seeds for shape in LENGTHS}


def write(cases: dict[str, dict[str, np.ndarray]], folder: Path) -> None:
    """Inputs as NAME.npz and settings.json in the folder."""
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    for name, arrays in cases.items():
        np.savez(folder / f"{name}.npz", **arrays)  # pyright: ignore[reportArgumentType]


def _one(lengths: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, *lengths])
    rows = len(lengths)
    mask = np.arange(_TIME)[None, :] < np.array(lengths)[:, None]
    mask[0, 5:9] = False

    def noise(scale: float) -> np.ndarray:
        return rng.normal(0, scale, (rows, _TIME))

    logprobs = -rng.exponential(1.0, (rows, _TIME)) - 1e-3
    per_row = rng.normal(0, 0.12, (rows, 1))
    jumps = rng.choice([0.0, math.log(6), -math.log(6)], (rows, _TIME), p=[0.9, 0.05, 0.05])
    old = logprobs - (per_row + noise(0.3) + jumps)
    drift = (
        rng.normal(0, 0.1, (rows, 1)) + noise(0.2) + rng.choice([0.0, 2.0, -2.0], (rows, _TIME), p=[0.9, 0.05, 0.05])
    )
    magnitudes = rng.uniform(0.2, 2.0, rows)
    rewards = rng.choice([-1.0, 1.0, 0.25], (4, 8))
    arrays: dict[str, Any] = {
        "logprobs": logprobs,
        "old_logprobs": old,
        "behavior_logprobs": old - drift,
        "reference_logprobs": logprobs + np.clip(noise(1.0), -2.0, 4.0),
        "advantages": magnitudes * np.where(np.arange(rows) % 2, -1, 1),
        "logits": rng.normal(0, 2.0, (rows, _TIME, 11)),
        "rewards": rewards,
        "equal_rewards": np.repeat([[0.7], [0.1], [1 / 3], [-1.0], [1.0]], 7, axis=1),
    }
    single = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    return single | {"mask": mask, "num_tokens": np.array([1, 63, 64, 65, 70, 80, 95, 96, 97, 140])}
