"""Results of `bench.py judge` as text, as JSON and as a picture.

In: `ModeResult`s, one `Round` a round. Out: a rich table, a dict, a PNG file. Figures are medians over rounds, with the
lowest and the highest round beside them.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table


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

    def median(self, name: str) -> float:
        """A figure, in the middle round."""
        return statistics.median(self.values(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that a mode should reach.

    Example:
        Target(what="warm: tests/s", size="warm", figure="tests_per_s", at_least=True, goal=500.0)
    """

    what: str
    size: str
    """The mode is `docker SIZE`, and the same with other runtimes."""
    figure: str
    at_least: bool
    """False: at most."""
    goal: float

    def met(self, result: ModeResult) -> bool | None:
        """Whether the median reaches the goal; None: not measured."""
        if result.skipped:
            return None
        got = result.median(self.figure)
        return got >= self.goal if self.at_least else got <= self.goal


TARGETS = (
    Target(what="warm: tests/s", size="warm", figure="tests_per_s", at_least=True, goal=500.0),
    Target(what="warm: p99 of a test, ms", size="warm", figure="p99_ms", at_least=False, goal=10.0),
    Target(what="warm: CPU ms a test", size="warm", figure="cpu_ms_per_test", at_least=False, goal=3.5),
    Target(what="fresh: rollouts/s", size="fresh", figure="rollouts_per_s", at_least=True, goal=10.0),
    Target(what="reuse=10: rollouts/s", size="reuse=10", figure="rollouts_per_s", at_least=True, goal=20.0),
)


_COLORS = {"ours": "#0b6e4f", "baseline": "0.55", "floor": "#c8a200"}
_PANELS = (("tests_per_s", "tests/s"), ("cpu_ms_per_test", "CPU ms a test"))


def ratios(result: ModeResult, reference: ModeResult | None) -> list[float]:
    """Tests/s as a multiple of the reference's in the same round; empty where the reference has none."""
    if reference is None or reference.skipped or result.skipped:
        return []
    pairs = zip(result.values("tests_per_s"), reference.values("tests_per_s"), strict=True)
    return [mine / theirs for mine, theirs in pairs]


def cpu_in_floors(result: ModeResult, results: list[ModeResult]) -> str:
    """CPU of a test as a multiple of the floor's; `-` where no floor was measured."""
    floor = next((one for one in results if one.kind == "floor" and not one.skipped), None)
    return "-" if floor is None else readable(result.median("cpu_ms_per_test") / floor.median("cpu_ms_per_test"))


def find(results: list[ModeResult], name: str) -> ModeResult | None:
    """The mode of this name."""
    return next((result for result in results if result.name == name), None)


def results_table(results: list[ModeResult], *, ratio_to: str) -> Table:
    """A line a mode."""
    table = Table(title="judge", title_justify="left")
    table.add_column("mode", no_wrap=True)
    for head in ("rollouts", "tests/s", "rollouts/s", "p50 ms", "p99 ms", "CPU ms/test", "/ floor", f"x {ratio_to}"):
        table.add_column(head, justify="right", no_wrap=True)
    reference = find(results, ratio_to)
    for result in results:
        if result.skipped:
            table.add_row(result.name, "skipped", style="dim")
            continue
        cells = [_spread(result.values("tests_per_s"))]
        cells += [readable(result.median(name)) for name in ("rollouts_per_s", "p50_ms", "p99_ms")]
        cells += [_spread(result.values("cpu_ms_per_test")), cpu_in_floors(result, results)]
        cells += [_spread(ratios(result, reference))]
        table.add_row(result.name, str(result.num_programs), *cells)
    return table


def targets_table(results: list[ModeResult], labels: tuple[str, ...]) -> Table:
    """A line a target, a column a runtime (`docker`, `docker crun`)."""
    table = Table(title="targets", title_justify="left")
    for number, head in enumerate(("target", "goal", *labels)):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for target in TARGETS:
        cells = []
        for label in labels:
            result = find(results, f"{label} {target.size}")
            met = target.met(result) if result else None
            told = {True: "met", False: "NOT MET", None: "not measured"}[met]
            cells.append(told if result is None or met is None else f"{readable(result.median(target.figure))} {told}")
        table.add_row(target.what, f"{'>=' if target.at_least else '<='} {target.goal:g}", *cells)
    return table


def readable(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else f"{value:.4f}"


def to_dict(results: list[ModeResult], labels: tuple[str, ...], *, ratio_to: str) -> dict[str, object]:
    """Every round of every mode, the medians, the targets."""
    reference = find(results, ratio_to)
    modes, names = [], [one.name for one in dataclasses.fields(Round)]
    for result in results:
        mode: dict[str, object] = {"name": result.name, "kind": result.kind, "skipped": result.skipped or None}
        if not result.skipped:
            mode["num_programs"] = result.num_programs
            mode["median"] = {name: round(result.median(name), 4) for name in names}
            if found := ratios(result, reference):
                mode["median"] |= {"ratio": round(statistics.median(found), 4)}
            mode["rounds"] = [dataclasses.asdict(one) for one in result.rounds]
        modes.append(mode)
    targets = [
        {"what": target.what, "mode": result.name, "goal": target.goal, "at_least": target.at_least,
         "got": None if result.skipped else result.median(target.figure), "met": target.met(result)}
        for label in labels for target in TARGETS if (result := find(results, f"{label} {target.size}"))
    ]  # fmt: skip
    return {"ratio_to": ratio_to, "modes": modes, "targets": targets}


def plot(path: Path, results: list[ModeResult], *, title: str) -> None:
    """Tests/s beside CPU ms a test: a point a mode, a line from its lowest to its highest round."""
    import matplotlib  # here, not above: importing it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [result for result in results if not result.skipped]
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 1.2 + 0.36 * len(shown)), dpi=150, layout="constrained")
    try:
        for axes, (name, label) in zip(panels, _PANELS, strict=True):
            for row, result in enumerate(shown):
                middle, values, color = result.median(name), result.values(name), _COLORS[result.kind]
                axes.plot([min(values), max(values)], [row, row], color=color, linewidth=2, solid_capstyle="butt")
                axes.plot([middle], [row], color=color, marker="o", markersize=7)
                place = dict(xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
                axes.annotate(readable(middle), (middle, row), **place)
            axes.set(xlabel=label, xscale="log", yticks=range(len(shown)), yticklabels=[one.name for one in shown])
            axes.invert_yaxis()
            axes.grid(axis="x", color="0.92")
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0.12, y=0.08)
        panels[1].tick_params(labelleft=False)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path)
    finally:
        pyplot.close(figure)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    middle = readable(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({readable(min(values))}..{readable(max(values))})"
