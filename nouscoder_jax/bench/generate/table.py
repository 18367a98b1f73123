"""Results of `bench.py generate` as text and as JSON.

In: turns of every contender, round by round, and what the check of logprobs found. Out: a rich table, lines, a dict.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from nouscoder_jax.bench.judge.table import readable

GOAL_TIMES = 2.0
"""Ours / the fastest of transformers' contenders, tokens/s."""
GOAL_REFILL = 0.8
"""Ours: long-tailed lengths with refill / uniform lengths, tokens/s."""
LARGEST_DIFFERENCE = 1e-3
"""Of a logprob, nats; above it a contender does not compute what the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn of one contender took.

    Example:
        Turn(wall_s=1.1, cpu_s=2.1, num_tokens=4096)
    """

    wall_s: float
    cpu_s: float
    num_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens a second."""
        return self.num_tokens / self.wall_s

    @property
    def cpu_us_per_token(self) -> float:
        """CPU microseconds of all threads and processes a completion token."""
        return 1e6 * self.cpu_s / self.num_tokens


@dataclass(kw_only=True)
class Result:
    """One contender on one task over all rounds."""

    name: str
    task: str
    skipped: str = ""
    """Why it has no turns; empty: it has."""
    facts: dict[str, Any] = field(default_factory=dict)
    warm_up: list[Turn] = field(default_factory=list)
    """Before the first round, compilation included; part of no figure."""
    turns: list[Turn] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        """`tokens_per_s` or `cpu_us_per_token` of every round."""
        return [getattr(turn, figure) for turn in self.turns]


def times(ours: Result, other: Result) -> list[float]:
    """Ours as a multiple of the other's tokens/s, round by round."""
    pairs = zip(ours.values("tokens_per_s"), other.values("tokens_per_s"), strict=True)
    return [mine / theirs for mine, theirs in pairs]


def times_by_cpu(ours: Result, other: Result) -> list[float]:
    """The other's CPU time a token as a multiple of ours, round by round."""
    pairs = zip(ours.values("cpu_us_per_token"), other.values("cpu_us_per_token"), strict=True)
    return [theirs / mine for mine, theirs in pairs]


def find(results: list[Result], name: str, task: str) -> Result | None:
    """The result of a contender that has turns."""
    return next((one for one in results if (one.name, one.task) == (name, task) and one.turns), None)


def results_table(results: list[Result]) -> Table:
    """A line a contender and task."""
    table = Table(title="generate", title_justify="left")
    for head in ("contender", "lengths"):
        table.add_column(head, no_wrap=True)
    for head in ("tokens/s", "CPU us/token", "ours is", "by CPU"):
        table.add_column(head, justify="right", no_wrap=True)
    ours = find(results, "ours", "uniform")
    for one in results:
        if not one.turns:
            table.add_row(one.name, one.task, "skipped", style="dim")
            continue
        cells = [_spread(one.values("tokens_per_s")), _spread(one.values("cpu_us_per_token"))]
        if ours is not None and one is not ours:
            cells += [f"{_spread(times(ours, one))}x", f"{_spread(times_by_cpu(ours, one))}x"]
        else:
            cells += ["-", "-"]
        table.add_row(one.name, one.task, *cells)
    return table


def targets(results: list[Result]) -> list[dict[str, Any]]:
    """Each target with what was got in the middle round, by wall time and, for reading on a busy machine, by CPU."""
    ours, tailed = find(results, "ours", "uniform"), find(results, "ours", "long_tailed")
    peers = [one for one in results if one.name.startswith("transformers") and one.turns]
    found = []
    got = by_cpu = None
    if ours and peers:
        fastest = max(peers, key=lambda peer: statistics.median(peer.values("tokens_per_s")))
        cheapest = min(peers, key=lambda peer: statistics.median(peer.values("cpu_us_per_token")))
        got, by_cpu = statistics.median(times(ours, fastest)), statistics.median(times_by_cpu(ours, cheapest))
    found.append(_target("ours / the fastest of transformers, tokens/s", GOAL_TIMES, got, by_cpu))
    got = by_cpu = None
    if ours and tailed:
        got, by_cpu = statistics.median(times(tailed, ours)), statistics.median(times_by_cpu(tailed, ours))
    found.append(_target("long-tailed lengths / uniform, tokens/s", GOAL_REFILL, got, by_cpu))
    return found


def _target(what: str, goal: float, got: float | None, by_cpu: float | None) -> dict[str, Any]:
    rounded = [None if value is None else round(value, 3) for value in (got, by_cpu)]
    return {"what": what, "goal": goal, "got": rounded[0], "by_cpu": rounded[1],
            "met": None if got is None else got >= goal}  # fmt: skip


def target_lines(found: list[dict[str, Any]]) -> list[str]:
    """A line a target."""
    lines = []
    for target in found:
        told = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
        got = "" if target["got"] is None else f"{target['got']} (by CPU time {target['by_cpu']}) "
        lines.append(f"target: {target['what']} >= {target['goal']}: {got}{told}")
    return lines


def sameness(differences: dict[str, float]) -> tuple[list[str], bool]:
    """A line a contender on how far its logprobs are from a forward pass of transformers, and whether all are near."""
    lines, same = [], True
    for name, difference in differences.items():
        near = difference <= LARGEST_DIFFERENCE
        same = same and near
        lines.append(
            f"{'same' if near else 'NOT THE SAME'}: {name}: its logprobs and those of a forward pass over its tokens "
            f"differ by at most {difference:.1e} (limit {LARGEST_DIFFERENCE:.0e})"
        )
    return lines, same


def to_dict(results: list[Result], differences: dict[str, float]) -> dict[str, Any]:
    """Every turn of every contender, the medians, differences of logprobs, targets."""
    contenders = []
    ours = find(results, "ours", "uniform")
    for result in results:
        one: dict[str, Any] = {"name": result.name, "task": result.task, "skipped": result.skipped or None}
        one["facts"] = result.facts
        if result.turns:
            figures = ("tokens_per_s", "cpu_us_per_token")
            one["median"] = {figure: round(statistics.median(result.values(figure)), 1) for figure in figures}
            if ours is not None and result is not ours:
                one["median"] |= {
                    "ours_is_times": round(statistics.median(times(ours, result)), 3),
                    "ours_is_times_by_cpu": round(statistics.median(times_by_cpu(ours, result)), 3),
                }
            one["warm_up"] = [dataclasses.asdict(turn) for turn in result.warm_up]
            one["rounds"] = [dataclasses.asdict(turn) for turn in result.turns]
        contenders.append(one)
    return {"contenders": contenders, "logprob_differences": differences, "targets": targets(results)}


def _spread(values: list[float]) -> str:
    middle = readable(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({readable(min(values))}..{readable(max(values))})"
