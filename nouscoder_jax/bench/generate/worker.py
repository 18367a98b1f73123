"""What a contender of `bench.py generate` answers: a turn of each task, timed, and checked to be as long as asked for.

In: something that generates, the folder of the workload. Out: answers for `bench.worker.serve`. The sequences of the
last turn of uniform lengths lie in the folder under the contender's name, so that one contender can check all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nouscoder_jax.bench.generate import workload
from nouscoder_jax.bench.generate.workload import Request
from nouscoder_jax.bench.worker import Answers, timed


class Generated(NamedTuple):
    """The completion of one request."""

    ids: Sequence[int]
    logprobs: Sequence[float]


Generate = Callable[[list[Request]], list[Generated]]
"""Completes the requests, in order. Returns when all are done."""


def answers(name: str, folder: Path, generate: Generate, *, cpu_s: Callable[[], float] = time.process_time) -> Answers:
    """`cpu_s`: CPU seconds of all that works for it so far."""
    settings = workload.read_settings(folder)
    turns = itertools.count()

    def take(task: str) -> dict[str, Any]:
        requests = getattr(workload, task)(settings, turn=next(turns))
        generated: list[Generated] = []

        def work() -> dict[str, Any]:
            generated.extend(generate(requests))
            return {"num_tokens": sum(request.num_tokens for request in requests)}

        found = timed(work, cpu_s=cpu_s)
        _check(name, requests, generated)
        if task == "uniform":
            _keep(folder / f"{name}.npz", requests, generated)
        return found

    return {task: partial(take, task) for task in workload.TASKS}


def _check(name: str, requests: list[Request], generated: list[Generated]) -> None:
    for request, one in zip(requests, generated, strict=True):
        if not len(one.ids) == len(one.logprobs) == request.num_tokens:
            raise SystemExit(
                f"{name} gave {len(one.ids)} tokens and {len(one.logprobs)} logprobs where {request.num_tokens} were "
                "asked for; a contender that does less cannot be compared"
            )


def _keep(path: Path, requests: list[Request], generated: list[Generated]) -> None:
    rows = [[*request.prompt, *one.ids] for request, one in zip(requests, generated, strict=True)]
    np.savez(path, tokens=np.asarray(rows, np.int64), logprobs=np.asarray([one.logprobs for one in generated]))
