"""Results of every bench as text, JSON, Markdown and picture.

In: rows of cells, figures of every round, targets, notes, facts of the machine. Out: a table on the console, a JSON
file, a Markdown table, a PNG file. A figure of several rounds is told as `median (lowest..highest)`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_NOISY_LOAD = 0.5
_LOG_FROM = 10.0
"""Figures that are further apart are drawn on a logarithmic axis."""
_WIDTH_CHARS = 160
"""Of a table where there is no terminal."""


def readable(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else f"{value:.4f}"


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and the highest where there are several values."""
    if not values:
        return "-"
    middle = readable(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({readable(min(values))}..{readable(max(values))})"


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

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.got is None:
            return None
        return self.got >= self.goal if self.at_least else self.got <= self.goal

    def line(self) -> str:
        """The target in a sentence."""
        told = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        got = "" if self.got is None else f"{readable(self.got)} "
        return f"target: {self.what} {'>=' if self.at_least else '<='} {self.goal:g}: {got}{told}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, rounded."""
        got = None if self.got is None else round(self.got, 4)
        return {"what": self.what, "goal": self.goal, "got": got, "met": self.met}


@dataclass(kw_only=True)
class Report:
    """What one bench has found."""

    bench: str
    facts: Mapping[str, Any]
    """Of the machine (`machine.describe`)."""
    heads: Sequence[str]
    rows: list[list[str]]
    """Cells as in `heads`; a row that ends early is of something that was not measured."""
    num_labels: int = 1
    """Columns on the left that are words."""
    remark: bool = False
    """Whether the last column is a sentence."""
    notes: list[str] = field(default_factory=list)
    """Sentences below the table."""
    targets: list[Target] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)
    """What the JSON file holds beside the facts and the targets."""
    panels: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Of the picture: figure -> name -> values."""

    def finish(self, options: argparse.Namespace) -> None:
        """Shows it; writes JSON (--out) and picture (--plot) where the options ask for them."""
        console = Console(highlight=False)
        self.show(console if console.is_terminal else Console(highlight=False, width=_WIDTH_CHARS))
        if options.out:
            files = ("out", "plot", "readme")  # what a file is called says nothing of what was measured
            asked = {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(options).items()
                if name not in files and isinstance(value, int | float | str | list | Path)
            }
            content = {"settings": asked} | self.to_dict() | {"load_after": round(os.getloadavg()[0], 2)}
            options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if getattr(options, "plot", None):
            title = f"{self.bench}; {self.facts.get('commit')}, {str(self.facts.get('date'))[:10]}"
            drawn = {label: {name: row for name, row in rows.items() if row} for label, rows in self.panels.items()}
            drawn = {label: rows for label, rows in drawn.items() if rows}
            if drawn:
                plot_spreads(options.plot, drawn, title=title)
            else:
                console.print(f"--plot: {self.bench} has measured nothing to draw", markup=False)

    def show(self, console: Console) -> None:
        """The table, the notes, the targets, where it was measured."""
        table = Table(title=self.bench, title_justify="left")
        for number, head in enumerate(self.heads):
            is_remark = self.remark and number == len(self.heads) - 1
            is_text = is_remark or number < self.num_labels
            table.add_column(head, justify="left" if is_text else "right", no_wrap=not is_remark)
        for row in self.rows:
            table.add_row(*row, style="dim" if len(row) < len(self.heads) else "")
        console.print(table)
        where = "; ".join(f"{name} {value}" for name, value in self.facts.items())
        load = self.facts.get("load_before", 0.0)
        noisy = [f"NOISY: the load was {load} before the start; trust ratios and CPU time only"]
        for line in [*self.notes, *(one.line() for one in self.targets), where, *noisy[: load > _NOISY_LOAD]]:
            console.print(line, markup=False, soft_wrap=True)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        targets = {"targets": [target.to_dict() for target in self.targets]} if self.targets else {}
        return {"bench": self.bench, **self.facts, **self.content, **targets}


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, num_labels: int = 1, remark: bool = False
) -> str:
    """Labels on the left, figures on the right, and a last column of sentences where there are remarks."""
    figures = range(num_labels, len(heads) - remark)
    marks = ["---:" if number in figures else "---" for number in range(len(heads))]
    head, *lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([head, f"|{'|'.join(marks)}|", *lines])


def plot_spreads(path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> None:
    """A panel a figure, in it a row a name: a point at the median, a line from the lowest to the highest value. The
    first name is drawn in a colour."""
    from matplotlib.figure import Figure  # here, not above: importing it takes a second

    names = list(next(iter(panels.values())))
    size = (max(9.0, 5.5 * len(panels)), 1.2 + 0.4 * len(names))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for one, (label, rows) in zip(axes, panels.items(), strict=True):
        for place, (name, values) in enumerate(rows.items()):
            middle, color = statistics.median(values), "#0b6e4f" if name == names[0] else "0.55"
            one.plot([min(values), max(values)], [place, place], color=color, linewidth=2)
            one.plot([middle], [place], color=color, marker="o", markersize=7)
            above = {"xytext": (0, 7), "textcoords": "offset points", "fontsize": 8, "ha": "center"}
            one.annotate(readable(middle), (middle, place), **above)
        shown = names if one is axes[0] else [""] * len(names)
        one.set(xlabel=label, yticks=range(len(names)), yticklabels=shown)
        one.invert_yaxis()
        one.grid(axis="x", color="0.92")
        one.margins(x=0.12, y=0.08)
        one.spines[["top", "right"]].set_visible(False)
        measured = [value for values in rows.values() for value in values]
        far = max(measured) > _LOG_FROM * min(measured) > 0
        one.set(**{"xscale": "log"} if far else {"xlim": (0, 1.12 * max(measured) or 1.0)})
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)
