"""Results of every bench as text, JSON, Markdown and picture.

In: rows of cells, targets, notes, facts of the machine; figures of every round. Out: a table on the console, a JSON
file, a Markdown table, a PNG file. A figure of several rounds is told as `median (lowest..highest)`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

_NOISY_LOAD = 0.5
_LOG_FROM = 10.0
"""Figures that are further apart are drawn on a logarithmic axis."""

T = TypeVar("T")


def readable(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else f"{value:.4f}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and the lowest and the highest where there are several values."""
    if not values:
        return "-"
    middle = readable(statistics.median(values))
    told = middle if len(values) == 1 else f"{middle} ({readable(min(values))}..{readable(max(values))})"
    return told + unit


def quotients(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round; as many as both have."""
    return [a / b for a, b in zip(over, under, strict=False)]


def median(values: Sequence[float]) -> float | None:
    """None where there are no values."""
    return statistics.median(values) if values else None


def rotated(items: Sequence[T], number: int) -> list[T]:
    """The items in the order of round `number`: each round begins with the next one, so that noise hits all alike."""
    turn = number % len(items)
    return [*items[turn:], *items[:turn]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that should be reached.

    Example:
        Target(what="ours / trl, real tokens/s", goal=2.5, got=2.7)
    """

    what: str
    goal: int | float
    got: int | float | None
    """None: not measured."""
    at_least: bool = True
    """False: at most."""
    by_cpu: float | None = None
    """The same by CPU time, for reading on a busy machine."""

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.got is None:
            return None
        return self.got >= self.goal if self.at_least else self.got <= self.goal

    def line(self) -> str:
        """The target in a sentence."""
        told = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        got = "" if self.got is None else f"{readable(float(self.got))} "
        got += "" if self.by_cpu is None else f"(by CPU time {readable(self.by_cpu)}) "
        return f"target: {self.what} {'>=' if self.at_least else '<='} {self.goal:g}: {got}{told}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, rounded."""
        found = {"what": self.what, "goal": self.goal, "got": _rounded(self.got)}
        return found | ({} if self.by_cpu is None else {"by_cpu": _rounded(self.by_cpu)}) | {"met": self.met}


@dataclass(kw_only=True)
class Report:
    """What one bench has found."""

    bench: str
    facts: Mapping[str, Any]
    """Of the machine (`machine.describe`)."""
    title: str
    heads: Sequence[str]
    rows: list[list[str]]
    """Cells as in `heads`; a row that ends early is of something that was not measured."""
    num_labels: int = 1
    """Columns on the left that are names."""
    remark: bool = False
    """Whether the last column is a sentence."""
    load_matters: bool = True
    """False: no figure is of wall time, or the bench measures what other processes take."""
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""
    targets: list[Target] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)
    """What the JSON file holds beside the facts and the targets."""

    def show(self, console: Console) -> None:
        """The table, the notes, the targets, where it was measured."""
        table = Table(title=self.title, title_justify="left")
        for number, head in enumerate(self.heads):
            is_remark = self.remark and number == len(self.heads) - 1
            is_text = is_remark or number < self.num_labels
            table.add_column(head, justify="left" if is_text else "right", no_wrap=not is_remark)
        for row in self.rows:
            table.add_row(*row, style="dim" if len(row) < len(self.heads) else "")
        console.print(table)
        for line in [*self.notes, *(target.line() for target in self.targets)]:
            console.print(line, markup=False, soft_wrap=True)
        if "hardware" in self.facts:
            names = ("date", "commit", "device", "hardware", "versions", "load_before", "load_after")
            told = [f"{name} {self.facts[name]}" for name in names if name in self.facts]
            console.print("; ".join(told), markup=False, soft_wrap=True)
        load = self.facts.get("load_before", 0.0)
        if self.load_matters and load > _NOISY_LOAD:
            console.print(f"NOISY: the load was {load} before the start; trust ratios and CPU time only")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        targets = {"targets": [target.to_dict() for target in self.targets]} if self.targets else {}
        return {"bench": self.bench, **self.facts, **self.content, **targets}

    def write(self, path: Path | None) -> None:
        """As JSON; nothing without a path."""
        if path:
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_labels: int = 1, remark: bool = False
) -> str:
    """Labels on the left, figures on the right, and a last column of sentences where there are remarks."""
    figures = range(num_labels, len(heads) - remark)
    marks = ["---:" if number in figures else "---" for number in range(len(heads))]
    head, *lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([head, f"|{'|'.join(marks)}|", *lines])


@contextmanager
def picture(path: Path, num_rows: int, num_columns: int, *, title: str, **options: Any) -> Iterator[list[Any]]:
    """The axes of a figure, which is written when the context ends; `options` are those of `pyplot.subplots`."""
    import matplotlib  # here, not above: importing it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(num_rows, num_columns, dpi=150, layout="constrained", squeeze=False, **options)
    try:
        for one in axes.flat:
            one.spines[["top", "right"]].set_visible(False)
        yield list(axes.flat)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path)
    finally:
        pyplot.close(figure)


def plot_spreads(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, colors: Mapping[str, str]
) -> None:
    """A panel a figure, in it a row a name: a point at the median, a line from the lowest to the highest round."""
    names = list(next(iter(panels.values())))
    size = (max(9.0, 5.5 * len(panels)), 1.2 + 0.4 * len(names))
    with picture(path, 1, len(panels), title=title, figsize=size) as axes:
        for one, (label, rows) in zip(axes, panels.items(), strict=True):
            for place, (name, values) in enumerate(rows.items()):
                middle, color = statistics.median(values), colors.get(name, "0.55")
                one.plot([min(values), max(values)], [place, place], color=color, linewidth=2)
                one.plot([middle], [place], color=color, marker="o", markersize=7)
                above = {"xytext": (0, 7), "textcoords": "offset points", "fontsize": 8, "ha": "center"}
                one.annotate(readable(middle), (middle, place), **above)
            one.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
            one.invert_yaxis()
            one.grid(axis="x", color="0.92")
            one.margins(x=0.12, y=0.08)
            measured = [value for values in rows.values() for value in values]
            if max(measured) > _LOG_FROM * min(measured):
                one.set(xscale="log")
            else:
                one.set(xlim=(0, 1.12 * max(measured)))
        for one in axes[1:]:
            one.tick_params(labelleft=False)


def _rounded(value: int | float | None) -> int | float | None:
    return value if value is None or isinstance(value, bool) else round(value, 4)
