"""Results of `bench.py update` as text, as JSON and as a picture.

In: turns of every contender, round by round. Out: a rich table, lines on sameness and targets, a dict, a PNG file.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from nouscoder_jax.bench.judge.table import readable
from nouscoder_jax.bench.update.peers import Turn

TARGETS = {"trl": 2.5, "tunix": 4.5}
"""Ours should reach this many times their real tokens/s."""

LARGEST_DIFFERENCE = 1e-4
"""Of losses, and of gradient norms relative to ours; above it the contenders do not compute the same thing."""

_COLORS = {"ours": "#0b6e4f", "trl": "0.55", "tunix": "0.7"}


@dataclass(kw_only=True)
class Result:
    """One contender over all rounds."""

    name: str
    num_real_tokens: int
    skipped: str = ""
    """Why it has no turns; empty: it has."""
    facts: dict[str, Any] = field(default_factory=dict)
    warm_up: list[Turn] = field(default_factory=list)
    """Steps before the first round, compilation included; not part of any figure but the losses."""
    turns: list[Turn] = field(default_factory=list)

    def tokens_per_s(self) -> list[float]:
        """Real tokens/s of every round."""
        return [self.num_real_tokens / turn.wall_s for turn in self.turns]

    def cpu_us_per_token(self) -> list[float]:
        """CPU microseconds a real token, of every round."""
        return [1e6 * turn.cpu_s / self.num_real_tokens for turn in self.turns]

    def all_turns(self) -> list[Turn]:
        """The warm-up and the rounds."""
        return [*self.warm_up, *self.turns]

    def compile_s(self) -> float:
        """What warming up took beyond as many of the fastest steps."""
        return sum(turn.wall_s for turn in self.warm_up) - len(self.warm_up) * min(turn.wall_s for turn in self.turns)


def ratios(ours: Result, other: Result) -> list[float]:
    """Ours as a multiple of the other's real tokens/s, round by round."""
    return [mine / theirs for mine, theirs in zip(ours.tokens_per_s(), other.tokens_per_s(), strict=True)]


def cpu_ratios(ours: Result, other: Result) -> list[float]:
    """The other's CPU time as a multiple of ours, round by round."""
    return [theirs / mine for mine, theirs in zip(ours.cpu_us_per_token(), other.cpu_us_per_token(), strict=True)]


def differences(ours: Result, other: Result) -> tuple[float, float]:
    """The largest difference of losses, and of gradient norms relative to ours, over the warm-up and all rounds.

    Every step starts from the weights that the step before left, so that equal losses of later steps also mean equal
    gradients and equal AdamW."""
    pairs = list(zip(ours.all_turns(), other.all_turns(), strict=True))
    loss = max(abs(mine.loss - theirs.loss) for mine, theirs in pairs)
    norm = max(abs(mine.grad_norm - theirs.grad_norm) / mine.grad_norm for mine, theirs in pairs)
    return loss, norm


def results_table(results: list[Result]) -> Table:
    """A line a contender."""
    table = Table(title="update", title_justify="left")
    table.add_column("contender", no_wrap=True)
    heads = ("real tokens/s", "CPU us/token", "s/update", "compile s", "ours is", "by CPU", "loss", "grad norm")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    ours = results[0]
    for result in results:
        if not result.turns:
            table.add_row(result.name, "skipped", style="dim")
            continue
        first = result.warm_up[0]
        cells = [_spread(result.tokens_per_s()), _spread(result.cpu_us_per_token())]
        cells += [_spread([turn.wall_s for turn in result.turns]), readable(result.compile_s())]
        compared = result is not ours and not ours.skipped
        cells += [f"{_spread(ratios(ours, result))}x" if compared else "-"]
        cells += [f"{_spread(cpu_ratios(ours, result))}x" if compared else "-"]
        table.add_row(result.name, *cells, f"{first.loss:.7f}", f"{first.grad_norm:.5f}")
    return table


def sameness(results: list[Result]) -> tuple[list[str], bool]:
    """A line a peer on how far its losses and gradient norms are from ours, and whether all are near enough."""
    lines, same = [], True
    for result in results[1:]:
        if result.skipped:
            continue
        loss, norm = differences(results[0], result)
        near = max(loss, norm) <= LARGEST_DIFFERENCE
        same = same and near
        lines.append(
            f"{'same' if near else 'NOT THE SAME'}: ours and {result.name}: over {len(result.all_turns())} steps "
            f"losses differ by at most {loss:.1e}, gradient norms by {norm:.1e} (limit {LARGEST_DIFFERENCE:.0e})"
        )
    return lines, same


def targets(results: list[Result]) -> list[dict[str, Any]]:
    """Each target with what was got."""
    measured = {result.name: result for result in results if not result.skipped}
    found = []
    for name, goal in TARGETS.items():
        got = met = None
        if name in measured and "ours" in measured:
            got = round(statistics.median(ratios(measured["ours"], measured[name])), 3)
            met = got >= goal
        found.append({"what": f"ours / {name}, real tokens/s", "goal": goal, "got": got, "met": met})
    return found


def to_dict(results: list[Result]) -> dict[str, Any]:
    """Every turn of every contender, the medians, sameness and targets."""
    contenders = []
    for result in results:
        one: dict[str, Any] = {"name": result.name, "skipped": result.skipped or None, "facts": result.facts}
        if result.turns:
            one["median"] = {
                "tokens_per_s": round(statistics.median(result.tokens_per_s()), 1),
                "cpu_us_per_token": round(statistics.median(result.cpu_us_per_token()), 2),
            }
            if result is not results[0] and not results[0].skipped:
                loss, norm = differences(results[0], result)
                one["median"] |= {
                    "ours_is_times": round(statistics.median(ratios(results[0], result)), 3),
                    "ours_is_times_by_cpu": round(statistics.median(cpu_ratios(results[0], result)), 3),
                }
                one |= {"largest_loss_difference": loss, "largest_grad_norm_difference": norm}
            one["compile_s"] = round(result.compile_s(), 2)
            one["warm_up"] = [dataclasses.asdict(turn) for turn in result.warm_up]
            one["rounds"] = [dataclasses.asdict(turn) for turn in result.turns]
        contenders.append(one)
    return {"contenders": contenders, "targets": targets(results)}


def plot(path: Path, results: list[Result], *, title: str) -> None:
    """Real tokens/s: a bar a contender, a line from its slowest to its fastest round."""
    import matplotlib  # here, not above: importing it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [result for result in results if not result.skipped]
    figure, axes = pyplot.subplots(figsize=(7.5, 1.2 + 0.55 * len(shown)), dpi=150, layout="constrained")
    try:
        for row, result in enumerate(shown):
            speeds = result.tokens_per_s()
            middle = statistics.median(speeds)
            axes.barh(row, middle, color=_COLORS[result.name], height=0.6)
            axes.plot([min(speeds), max(speeds)], [row, row], color="black", linewidth=1)
            told = readable(middle)
            if result is not shown[0]:
                told += f"   ours is {readable(statistics.median(ratios(shown[0], result)))}x"
            axes.annotate(told, (max(speeds), row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set(xlabel="real tokens/s", yticks=range(len(shown)), yticklabels=[result.name for result in shown])
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title, fontsize=9)
        figure.savefig(path)
    finally:
        pyplot.close(figure)


def _spread(values: list[float]) -> str:
    middle = readable(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({readable(min(values))}..{readable(max(values))})"
