"""What every contender of `bench.py generate` is asked for: prompts and lengths, drawn from the number of the turn.

In: a turn. Out: requests; a folder with model (Hugging Face) and settings.json. Two tasks:

    uniform       as many requests as there are slots, all of one length
    long_tailed   eight times as many, their lengths log-normal with the same mean, cut at LONGEST_TOKENS; a slot that
                  ends takes the next
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nouscoder_jax.bench.update.workload import ARCHITECTURE, QUICK_ARCHITECTURE, random_model
from nouscoder_jax.model.weights import save_model

TASKS = ("uniform", "long_tailed")
NUM_SLOTS = 32
PROMPT_TOKENS = 16
COMPLETION_TOKENS = 128
NUM_LONG_TAILED = 8 * NUM_SLOTS
LONGEST_TOKENS = 496
_SPREAD = 0.7
"""Standard deviation of the logarithm: the median is 100 tokens, a tenth has more than 245, the mean is 128."""


class Request(NamedTuple):
    """One sequence to generate; it has no end token, so it gets exactly `num_tokens`."""

    prompt: tuple[int, ...]
    num_tokens: int
    seed: int


def write(folder: Path, *, quick: bool) -> None:
    """Writes everything that a contender reads. `quick`: a tiny model, few tokens."""
    architecture = QUICK_ARCHITECTURE if quick else ARCHITECTURE
    model = random_model(architecture, np.random.default_rng(0))
    save_model(model, architecture, folder / "model", dtype="float32", tokenizer_dir=None)
    settings = {"vocab_size": architecture.vocab_size, "quick": quick}
    (folder / "settings.json").write_text(json.dumps(settings) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """What `write` wrote beside the model."""
    return json.loads((folder / "settings.json").read_text())


def uniform(settings: dict[str, Any], *, turn: int) -> list[Request]:
    """The requests of this turn; other prompts in every turn, so that none is remembered."""
    num_tokens = COMPLETION_TOKENS // 8 if settings["quick"] else COMPLETION_TOKENS
    return _requests([num_tokens] * NUM_SLOTS, vocab_size=settings["vocab_size"], turn=turn)


def long_tailed(settings: dict[str, Any], *, turn: int) -> list[Request]:
    """The requests of this turn, in an order that says nothing of their lengths; the same lengths in every turn."""
    lengths = long_tailed_lengths(NUM_LONG_TAILED)
    if settings["quick"]:
        lengths = [max(1, length // 8) for length in lengths[: 2 * NUM_SLOTS]]
    return _requests(lengths, vocab_size=settings["vocab_size"], turn=1000 + turn)


def long_tailed_lengths(num_requests: int) -> list[int]:
    """Completion tokens of each request: log-normal around a mean of COMPLETION_TOKENS, cut at LONGEST_TOKENS."""
    normal = np.random.default_rng(0).normal(size=num_requests)
    lengths = COMPLETION_TOKENS * np.exp(_SPREAD * normal - _SPREAD**2 / 2)
    return np.clip(np.round(lengths), 1, LONGEST_TOKENS).astype(int).tolist()


def _requests(lengths: list[int], *, vocab_size: int, turn: int) -> list[Request]:
    prompts = np.random.default_rng(turn).integers(1, vocab_size, (len(lengths), PROMPT_TOKENS)).tolist()
    return [
        Request(tuple(prompt), length, seed=10_000 * turn + index)
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
