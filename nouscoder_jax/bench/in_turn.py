"""Functions of this process that take turns over several rounds, so that the machine's noise hits all alike.

In: functions by name, rounds, when to stop. Out: `Timed`: seconds of every round, or why there are none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nouscoder_jax.bench.results import rotated


@dataclass(kw_only=True)
class Timed:
    """One contender; one figure a round."""

    name: str
    skipped: str = ""
    """Why it has no figures; empty: it has."""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of this process, all threads; means nothing for work on a GPU."""


def warmed_up(functions: Mapping[str, Callable[[], Any]]) -> list[Timed]:
    """Calls each once, which compiles it; that this machine cannot run one is a result."""
    results = []
    for name, function in functions.items():
        results.append(Timed(name=name))
        try:
            function()
        except (RuntimeError, ValueError) as error:
            results[-1].skipped = " ".join(str(error).split())[:200]
    return results


def measure(
    functions: Mapping[str, Callable[[], Any]], results: list[Timed], *, rounds: int, until: float,
    at_least_s: float = 0.0, cpu_s: Callable[[], float] = time.process_time,
    before: Callable[[int, str], None] = lambda number, name: None,
) -> None:  # fmt: skip
    """Adds every round's seconds a call to the results, over as many calls as `at_least_s` holds. No round but the
    first starts after `until` (time.monotonic). `before(round, name)` is no part of a turn."""
    for number in range(rounds):
        if number and time.monotonic() > until:
            return
        for result in rotated(results, number):
            if result.skipped:
                continue
            before(number, result.name)
            wall, cpu, num_calls = time.perf_counter(), cpu_s(), 0
            while num_calls == 0 or time.perf_counter() - wall < at_least_s:
                functions[result.name]()
                num_calls += 1
            result.wall_s.append((time.perf_counter() - wall) / num_calls)
            result.cpu_s.append((cpu_s() - cpu) / num_calls)
