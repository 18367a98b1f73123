"""What every contender of `bench.py generate` is asked for, and what it answers: a turn of each task.

In: a task and a turn; something that generates. Out: requests, drawn from the number of the turn; answers for
`bench.worker.serve`, timed and checked to be as long as asked for. Two tasks:

    uniform       as many requests as there are slots, all of one length
    long_tailed   eight times as many, their lengths log-normal with the same mean, cut at LONGEST_TOKENS; a slot that
                  ends takes the next

The sequences of the last uniform turn lie in the folder under the contender's name, so that one can check all.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nouscoder_jax.bench.worker import Answers, timed

TASKS = ("uniform", "long_tailed")
NUM_SLOTS = 32
PROMPT_TOKENS = 16
COMPLETION_TOKENS = 128
LONGEST_TOKENS = 496
_SPREAD = 0.7
"""Standard deviation of the logarithm: the median is 100 tokens, a tenth has more than 245, the mean is 128."""


class Request(NamedTuple):
    """One sequence to generate; it has no end token, so it gets exactly `num_tokens`."""

    prompt: tuple[int, ...]
    num_tokens: int
    seed: int


class Generated(NamedTuple):
    """The completion of one request."""

    ids: Sequence[int]
    logprobs: Sequence[float]


def write(folder: Path, *, quick: bool) -> None:
    """Writes the model and settings.json. `quick`: a tiny model, few tokens."""
    from nouscoder_jax.bench.update.workload import ARCHITECTURE, QUICK_ARCHITECTURE, write_model

    architecture = QUICK_ARCHITECTURE if quick else ARCHITECTURE
    write_model(folder, architecture)
    settings = {"vocab_size": architecture.vocab_size, "quick": quick}
    (folder / "settings.json").write_text(json.dumps(settings) + "\n")


def requests(settings: dict[str, Any], task: str, *, turn: int) -> list[Request]:
    """Other prompts in every turn, so that none is remembered; the same lengths."""
    shrink = 8 if settings["quick"] else 1
    lengths = [COMPLETION_TOKENS] * NUM_SLOTS if task == "uniform" else long_tailed_lengths(8 * NUM_SLOTS // shrink)
    seed = 2 * turn + TASKS.index(task)
    prompts = np.random.default_rng(seed).integers(1, settings["vocab_size"], (len(lengths), PROMPT_TOKENS)).tolist()
    return [
        Request(tuple(prompt), max(1, length // shrink), seed=10_000 * seed + index)
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def long_tailed_lengths(num_requests: int) -> list[int]:
    """Completion tokens of each request: log-normal around a mean of COMPLETION_TOKENS, cut at LONGEST_TOKENS."""
    normal = np.random.default_rng(0).normal(size=num_requests)
    lengths = COMPLETION_TOKENS * np.exp(_SPREAD * normal - _SPREAD**2 / 2)
    return np.clip(np.round(lengths), 1, LONGEST_TOKENS).astype(int).tolist()


def answers(
    name: str, folder: Path, generate: Callable[[list[Request]], list[Generated]], *,
    cpu_s: Callable[[], float] = time.process_time,
) -> Answers:  # fmt: skip
    """`generate` completes the requests, in order; `cpu_s`: CPU seconds of all that works for it so far."""
    settings = json.loads((folder / "settings.json").read_text())
    turns = itertools.count()

    def take(task: str) -> dict[str, Any]:
        asked = requests(settings, task, turn=next(turns))
        generated: list[Generated] = []

        def work() -> dict[str, Any]:
            generated.extend(generate(asked))
            return {"work": sum(one.num_tokens for one in asked)}

        found = timed(work, cpu_s=cpu_s)
        check(name, asked, generated)
        if task == "uniform":
            rows = [[*request.prompt, *one.ids] for request, one in zip(asked, generated, strict=True)]
            np.savez(folder / f"{name}.npz", tokens=rows, logprobs=[one.logprobs for one in generated])
        return found

    return {"turn": take}


def check(name: str, asked: list[Request], generated: list[Generated]) -> None:
    """Raises SystemExit where a completion is not as long as asked for."""
    for request, one in zip(asked, generated, strict=True):
        if not len(one.ids) == len(one.logprobs) == request.num_tokens:
            raise SystemExit(
                f"{name} gave {len(one.ids)} tokens and {len(one.logprobs)} logprobs where {request.num_tokens} were "
                "asked for; a contender that does less cannot be compared"
            )
