"""What `bench.py judge` has found: rounds of every mode, rows of the table, targets.

In: `ModeResult`s, one `Round` a round. Out: a `Report`, in which figures are medians over rounds, with the lowest and
the highest round beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nouscoder_jax.bench.results import Report, Target, median, quotients, readable, spread

TARGETS = (
    ("warm", "tests/s", "tests_per_s", True, 500.0),
    ("warm", "p99 of a test, ms", "p99_ms", False, 10.0),
    ("warm", "CPU ms a test", "cpu_ms_per_test", False, 3.5),
    ("fresh", "rollouts/s", "rollouts_per_s", True, 10.0),
    ("reuse=10", "rollouts/s", "rollouts_per_s", True, 20.0),
)
"""Of the mode `LABEL SIZE`: size, what, figure, whether at least or at most, goal."""
LABELS = ("docker", "docker crun")
COLORS = {"ours": "#0b6e4f", "baseline": "0.55", "floor": "#c8a200"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One mode in one round.

    Example:
        Round(tests_per_s=512.0, rollouts_per_s=25.6, p50_ms=3.6, p99_ms=7.9, cpu_ms_per_test=3.4, others_share=0.01)
    """

    tests_per_s: float
    rollouts_per_s: float
    p50_ms: float
    """Latency of a test."""
    p99_ms: float
    cpu_ms_per_test: float
    """Everything counted: client, engine, containers."""
    others_share: float
    """Share of the machine that processes which are no part of the benchmark took; 0 where that cannot be told."""


@dataclass(kw_only=True)
class ModeResult:
    """One mode over all rounds."""

    name: str
    kind: str
    num_programs: int
    skipped: str = ""
    """Why it has no rounds; empty: it has."""
    rounds: list[Round] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """A figure of every round."""
        return [getattr(one, name) for one in self.rounds]

    def median(self, name: str) -> float | None:
        """A figure, in the middle round."""
        return median(self.values(name))


def ratios(result: ModeResult, reference: ModeResult | None) -> list[float]:
    """Tests/s as a multiple of the reference's in the same round; empty where one has none."""
    return quotients(result.values("tests_per_s"), reference.values("tests_per_s")) if reference else []


def cpu_in_floors(result: ModeResult, results: list[ModeResult]) -> str:
    """CPU of a test as a multiple of the floor's; `-` where no floor was measured."""
    floor = next((one for one in results if one.kind == "floor"), None)
    mine, least = result.median("cpu_ms_per_test"), floor and floor.median("cpu_ms_per_test")
    return readable(mine / least) if mine and least else "-"


def targets(results: list[ModeResult]) -> list[Target]:
    """Of the modes that were asked for."""
    found = []
    for label in LABELS:
        for size, what, figure, at_least, goal in TARGETS:
            result = next((one for one in results if one.name == f"{label} {size}"), None)
            if result:
                got = result.median(figure)
                found.append(Target(what=f"{result.name}: {what}", goal=goal, got=got, at_least=at_least))
    return found


def report(results: list[ModeResult], facts: Mapping[str, Any], *, ratio_to: str) -> Report:
    """A row a mode; every round of every mode and the medians for JSON."""
    reference = next((one for one in results if one.name == ratio_to), None)
    rows, modes, names = [], [], [one.name for one in dataclasses.fields(Round)]
    for one in results:
        mode: dict[str, object] = {"name": one.name, "kind": one.kind, "skipped": one.skipped or None}
        modes.append(mode)
        if one.skipped:
            rows.append([one.name, "skipped"])
            continue
        ratio = ratios(one, reference)
        figures = {name: one.median(name) for name in names} | ({"ratio": median(ratio)} if ratio else {})
        mode["num_programs"] = one.num_programs
        mode["median"] = {name: round(value or 0.0, 4) for name, value in figures.items()}
        mode["rounds"] = [dataclasses.asdict(each) for each in one.rounds]
        middles = [spread(one.values(name)).split(" ")[0] for name in ("rollouts_per_s", "p50_ms", "p99_ms")]
        cells = [str(one.num_programs), spread(one.values("tests_per_s")), *middles]
        cells += [spread(one.values("cpu_ms_per_test")), cpu_in_floors(one, results), spread(ratio)]
        rows.append([one.name, *cells])
    heads = ["mode", "rollouts", "tests/s", "rollouts/s", "p50 ms", "p99 ms", "CPU ms/test", "/ floor", f"x {ratio_to}"]
    return Report(
        bench="judge", facts=facts, load_matters=False, title="judge", heads=heads, rows=rows, targets=targets(results),
        content={"ratio_to": ratio_to, "modes": modes},
        notes=[f"skipped: {one.name}: {one.skipped}" for one in results if one.skipped],
    )  # fmt: skip
