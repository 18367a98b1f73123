"""Contenders that take turns over several rounds, so that the machine's noise hits all alike.

In: contenders, each a function of one turn. Out: figures of every round, as parts of a `Report`. Each round begins
with the next contender, and a ratio compares within a round. The first turns compile and warm up, and count for
nothing.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nouscoder_jax.bench.results import spread
from nouscoder_jax.config import UserError

Figures = dict[str, int | float]
"""Of one turn: `wall_s`, `cpu_s`, `speed` (work a second), `cpu_s_per_work`, and what the turn returned."""


@dataclass(kw_only=True)
class Contender:
    """One way of doing the work.

    Example:
        Contender(name="cp", turn=lambda: copy(source, target), work=2.03)
    """

    name: str
    turn: Callable[[], Mapping[str, float] | None]
    """Does the work once. What it returns is kept; `wall_s`, `cpu_s` and `work` of it stand for those of here."""
    work: float = 1.0
    """Of a turn, in the bench's unit: tokens, GB, TFLOP."""
    skipped: str = ""
    """Why it has no rounds; empty: it has."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How it computes."""
    warm_up: list[Figures] = field(default_factory=list)
    rounds: list[Figures] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        """A figure of every round."""
        return [float(one[figure]) for one in self.rounds]

    def median(self, figure: str) -> float | None:
        """A figure in the middle round; None where there are no rounds."""
        return statistics.median(self.values(figure)) if self.rounds else None

    def to_dict(self) -> dict[str, Any]:
        """Every turn and the medians, for JSON."""
        medians = {name: self.median(name) for name in (self.rounds or [{}])[0]}
        kept = {name: getattr(self, name) for name in ("name", "skipped", "facts", "warm_up", "rounds")}
        return kept | {"median": medians}


def take_turns(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    warm_up: int = 1,
    until: float = math.inf,
    at_least_s: float = 0.0,
    cpu_s: Callable[[], float] = time.process_time,
    before: Callable[[str], None] = lambda name: None,
) -> None:
    """Adds every round's figures to the contenders; one that fails is skipped with the reason.

    No round but the first starts after `until` (time.monotonic). A turn repeats until `at_least_s` are full and counts
    as their mean. `cpu_s`: CPU seconds so far of all that works. `before(name)` is no part of a turn.
    """
    for number in range(-warm_up, rounds):
        if number > 0 and time.monotonic() > until:
            return
        start = number % len(contenders)
        for one in [*contenders[start:], *contenders[:start]]:
            if one.skipped:
                continue
            before(one.name)
            try:
                figures = _timed(one, at_least_s=at_least_s if number >= 0 else 0.0, cpu_s=cpu_s)
            except (RuntimeError, ValueError, UserError) as error:
                one.skipped, one.rounds, one.warm_up = " ".join(str(error).split())[:400], [], []
                continue
            (one.rounds if number >= 0 else one.warm_up).append(figures)
            told = f"round {number + 1} of {rounds}" if number >= 0 else "warming up"
            print(f"{told}: {one.name}: {figures['wall_s']:.3f} s", file=sys.stderr, flush=True)


def _timed(one: Contender, *, at_least_s: float, cpu_s: Callable[[], float]) -> Figures:
    wall, cpu, calls, returned = time.perf_counter(), cpu_s(), 0, None
    while not calls or time.perf_counter() - wall < at_least_s:
        returned = one.turn()
        calls += 1
    figures = {"wall_s": (time.perf_counter() - wall) / calls, "cpu_s": (cpu_s() - cpu) / calls, "work": one.work}
    figures |= returned or {}
    return figures | {
        "speed": figures["work"] / figures["wall_s"], "cpu_s_per_work": figures["cpu_s"] / figures["work"]
    }  # fmt: skip


def find(contenders: Sequence[Contender], name: str) -> Contender | None:
    """The contender of this name that has rounds."""
    return next((one for one in contenders if one.name == name and one.rounds), None)


def ratios(one: Contender | None, other: Contender | None, figure: str = "speed") -> list[float]:
    """The figure as a multiple of the other's, round by round; empty where one has none."""
    if one is None or other is None:
        return []
    return [a / b for a, b in zip(one.values(figure), other.values(figure), strict=False) if b]


def ratio(one: Contender | None, other: Contender | None, figure: str = "speed") -> float | None:
    """The same in the middle round; None where one has no rounds."""
    found = ratios(one, other, figure)
    return statistics.median(found) if found else None


def table(
    contenders: Sequence[Contender],
    figures: Mapping[str, tuple[str, float]],
    *,
    reference: Callable[[Contender], str],
    ratio_of: Sequence[str] = ("speed",),
) -> dict[str, Any]:
    """Fields of a `Report`: a row a contender. `figures`: head -> figure and its factor; `reference(contender)`: the
    name of whom it is compared with, in the figures `ratio_of`."""
    rows = []
    for one in contenders:
        columns = [[factor * value for value in one.values(name)] for name, factor in figures.values()]
        columns += [ratios(one, find(contenders, reference(one)), name) for name in ratio_of]
        rows.append([one.name, *(map(spread, columns) if one.rounds else ["skipped"])])
    names = dict.fromkeys(reference(one) for one in contenders)
    heads = [f"{name} x {'its first' if len(names) > 1 else next(iter(names))}" for name in ratio_of]
    return {
        "heads": ["contender", *figures, *heads],
        "rows": rows,
        "notes": [f"skipped: {one.name}: {one.skipped}" for one in contenders if one.skipped],
        "content": {"contenders": [one.to_dict() for one in contenders]},
        "panels": {
            head: {one.name: [factor * value for value in one.values(name)] for one in contenders if one.rounds}
            for head, (name, factor) in list(figures.items())[:2]
        },
    }
