"""The protocol of `bench.py generate`: one contender in a process of its own, which takes its turns when told.

In: a line of JSON a turn on stdin, `{"do": "uniform"}`. Out: a line of JSON on stdout, with what the turn measured. The
sequences of its last turn of uniform lengths lie in the folder under its name, so that one contender can check all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nouscoder_jax.bench.generate import workload
from nouscoder_jax.bench.generate.workload import Request


class Generated(NamedTuple):
    """The completion of one request."""

    ids: Sequence[int]
    logprobs: Sequence[float]


Generate = Callable[[list[Request]], list[Generated]]
"""Completes the requests, in order. Returns when all are done."""


def serve(name: str, make: Callable[[Path], tuple[dict[str, Any], Generate]], *, cpu_s: Callable[[], float],
          others: dict[str, Callable[[], dict[str, Any]]]) -> None:  # fmt: skip
    """Makes the contender for the folder that argv ends with, tells its facts, then answers turns until stdin closes.

    `cpu_s`: CPU seconds of all that works for it so far. `others`: what only this contender answers.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    folder = Path(sys.argv[-1])
    settings = workload.read_settings(folder)
    facts, generate = make(folder)
    tell({"ready": facts})
    for turn, line in enumerate(sys.stdin):
        todo = json.loads(line)["do"]
        if todo in others:
            tell(others[todo]())
            continue
        requests = getattr(workload, todo)(settings, turn=turn)
        wall, cpu = time.perf_counter(), cpu_s()
        generated = generate(requests)
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
        _check(name, requests, generated)
        if todo == "uniform":
            _keep(folder / f"{name}.npz", requests, generated)
        tell({"wall_s": wall, "cpu_s": cpu, "num_tokens": sum(request.num_tokens for request in requests)})


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
