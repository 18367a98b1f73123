"""Contenders in processes of their own that take turns over several rounds, and what is compared of them.

In: plans, the folder that contenders read. Out: a `Result` a contender and task: seconds and tokens of every turn; rows
of a table, a dict for JSON. Everybody waits while one works, turns rotate, and a ratio compares within a round.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nouscoder_jax.bench.results import median, quotients, rotated, spread
from nouscoder_jax.bench.worker import Worker, WorkerError, environment

HEADS = ("tokens/s", "CPU us/token", "ours is", "by CPU")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One contender: how it is started and what it is asked.

    Example:
        Plan(name="ours", command=(sys.executable, "-m", "nouscoder_jax.bench.generate.ours"), num_threads=2,
             tasks=("uniform", "long_tailed"), missing="")
    """

    name: str
    command: tuple[str, ...]
    num_threads: int
    tasks: tuple[str, ...]
    missing: str = ""
    """Why it cannot run; empty: it can."""
    at_the_end: str = ""
    """What the first that can is asked after the last round; empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn of one contender took.

    Example:
        Turn(wall_s=1.1, cpu_s=2.1, num_tokens=4096)
    """

    wall_s: float
    cpu_s: float
    """Of all that works for it; a thread that waits by spinning counts as one that works."""
    num_tokens: int
    loss: float | None = None
    grad_norm: float | None = None
    """Before clipping."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.num_tokens / self.wall_s

    @property
    def cpu_us_per_token(self) -> float:
        """CPU microseconds a token."""
        return 1e6 * self.cpu_s / self.num_tokens

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


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
        """`tokens_per_s`, `cpu_us_per_token` or `wall_s` of every round."""
        return [getattr(turn, figure) for turn in self.turns]


def measure_all(
    plans: list[Plan], folder: Path, *, rounds: int, warm_up: int
) -> tuple[list[Result], dict[str, dict[str, Any]]]:
    """Every contender's turns, and what was asked at the end. One that fails is skipped with the reason."""
    results = {plan.name: [Result(name=plan.name, task=task, skipped=plan.missing) for task in plan.tasks]
               for plan in plans}  # fmt: skip
    said = {}
    with ExitStack() as stack:
        running = {}
        for plan in plans:
            if not plan.missing:
                worker = Worker(plan.name, list(plan.command), folder, environment(plan.num_threads))
                running[plan.name] = stack.enter_context(worker)
        for number in range(-warm_up, rounds):
            for plan in rotated(plans, number):
                if not results[plan.name][0].skipped:
                    _take_turn(running[plan.name], results[plan.name], number=number, is_first=number == -warm_up)
        for plan in plans:
            if plan.at_the_end and plan.at_the_end not in said and not results[plan.name][0].skipped:
                said[plan.at_the_end] = running[plan.name].ask(plan.at_the_end)
    return [result for each in results.values() for result in each], said


def _take_turn(worker: Worker, results: list[Result], *, number: int, is_first: bool) -> None:
    """Every task of one contender in round `number`; before round 0 it warms up."""
    try:
        if is_first:
            facts = worker.wait_ready()
            for result in results:
                result.facts = facts
        for result in results:
            turn = Turn(**worker.ask(result.task))
            (result.turns if number >= 0 else result.warm_up).append(turn)
            told = f"round {number + 1}" if number >= 0 else "warming up"
            speed = f"{turn.tokens_per_s:,.0f} tokens/s, {turn.cpu_us_per_token:,.0f} CPU us/token"
            print(f"{told}: {result.name}, {result.task}: {speed}", file=sys.stderr, flush=True)
    except WorkerError as error:
        for result in results:
            result.skipped, result.turns, result.warm_up = str(error), [], []


def times(ours: Result, other: Result) -> list[float]:
    """Ours as a multiple of the other's tokens/s, round by round."""
    return quotients(ours.values("tokens_per_s"), other.values("tokens_per_s"))


def times_by_cpu(ours: Result, other: Result) -> list[float]:
    """The other's CPU time a token as a multiple of ours, round by round."""
    return quotients(other.values("cpu_us_per_token"), ours.values("cpu_us_per_token"))


def find(results: Sequence[Result], name: str, task: str) -> Result | None:
    """The result of a contender that has turns."""
    return next((one for one in results if (one.name, one.task) == (name, task) and one.turns), None)


def cells(result: Result, ours: Result | None) -> list[str]:
    """As in HEADS; nothing where it was skipped."""
    if not result.turns:
        return ["skipped"]
    compared = ["-", "-"]
    if ours is not None and result is not ours:
        compared = [spread(times(ours, result), "x"), spread(times_by_cpu(ours, result), "x")]
    return [spread(result.values("tokens_per_s")), spread(result.values("cpu_us_per_token")), *compared]


def notes(results: Sequence[Result]) -> list[str]:
    """How each contender computed, or why it did not."""
    lines = {}
    for one in results:
        told = f"skipped: {one.name}: {one.skipped}" if one.skipped else f"{one.name}: {json.dumps(one.facts)}"
        lines.setdefault(one.name, told)
    return list(lines.values())


def to_dict(result: Result, ours: Result | None) -> dict[str, Any]:
    """Every turn and the medians, for JSON."""
    one: dict[str, Any] = {"name": result.name, "task": result.task, "skipped": result.skipped or None}
    one["facts"] = result.facts
    if result.turns:
        figures = {name: median(result.values(name)) for name in ("tokens_per_s", "cpu_us_per_token")}
        if ours is not None and result is not ours:
            figures["ours_is_times"] = median(times(ours, result))
            figures["ours_is_times_by_cpu"] = median(times_by_cpu(ours, result))
        one["median"] = {name: round(value or 0.0, 3) for name, value in figures.items()}
        one["warm_up"] = [turn.to_dict() for turn in result.warm_up]
        one["rounds"] = [turn.to_dict() for turn in result.turns]
    return one


def sameness(who: str, differences: dict[str, float], *, limit: float) -> tuple[str, bool]:
    """A line on how far a contender's figures are from those that they should equal, and whether all are near."""
    near = max(differences.values()) <= limit
    told = ", ".join(f"{name} by at most {value:.1e}" for name, value in differences.items())
    return f"{'same' if near else 'NOT THE SAME'}: {who}: differ: {told} (limit {limit:.0e})", near
