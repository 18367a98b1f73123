"""The protocol of `bench.py update`: one contender in a process of its own, which takes its turns when told.

In: a line of JSON a turn on stdin, `{"do": "update"}`. Out: a line of JSON on stdout, with what the turn measured. Only
the standard library, because each contender runs in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[], tuple[float, float]]
"""One optimizer step on the whole batch: loss and gradient norm before clipping. Returns when all of it is done."""


def serve(make: Callable[[Path], tuple[dict[str, Any], Step]], extras: Callable[[], dict[str, Any]] | None) -> None:
    """Makes the contender for the folder in argv, tells its facts, then answers turns until stdin closes.

    `extras`, asked for with `{"do": "extras"}`, measures what only this contender has.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    facts, step = make(Path(sys.argv[1]))
    tell({"ready": facts})
    for line in sys.stdin:
        todo = json.loads(line)["do"]
        tell(_timed(step) if todo == "update" or extras is None else extras())


def _timed(step: Step) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    loss, grad_norm = step()
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "loss": loss,
        "grad_norm": grad_norm,
    }
