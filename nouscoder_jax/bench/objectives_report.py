"""Results of `bench.py objectives` as text, as Markdown and as a picture.

In: the dict that is written as JSON (a RunResult a run, settings, machine). Out: a rich table, lines, Markdown, a PNG
file. Everything is made from the dict alone, so that a kept JSON file gives the same table again.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from nouscoder_jax.bench.objectives_runs import RunResult
from nouscoder_jax.metrics import names

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
"""Okabe and Ito's colours, which colour-blind readers tell apart; and a pattern each for those who see none."""

_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False, "fontsize": 9}
"""Legends stand below the axes, where no point can be."""


def line(result: RunResult) -> str:
    """One run in one line."""
    name = f"{result.objective}-seed-{result.seed}"
    if result.error or result.pass_at_1_before is None or result.pass_at_1_after is None:
        return f"{name}: failed: {result.error}"
    told = f"{name}: held-out pass@1 {result.pass_at_1_before:.1%} before, {result.pass_at_1_after:.1%} after "
    told += f"{result.steps} steps, {result.seconds:.0f} s"
    return told + (", taken from its run folder, finished earlier" if result.reused else "")


def table(results: dict[str, Any]) -> Table:
    """A line an objective, a column a seed."""
    shown = Table(title="objectives: held-out pass@1", title_justify="left")
    shown.add_column("objective", no_wrap=True)
    for head in _rows(results)[0][1:]:
        shown.add_column(head, justify="right", no_wrap=True)
    for row in _rows(results)[1:]:
        shown.add_row(*row)
    return shown


def markdown(results: dict[str, Any]) -> str:
    """The block of the README: the table, the command, the settings that all objectives share."""
    head, *rows = _rows(results)
    lines = [f"| {' | '.join(row)} |" for row in (["held-out pass@1", *head[1:]], *rows)]
    lines.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    settings = results["settings"]
    command = f"`{settings['command']}`"
    return "\n".join([*lines, "", f"{command}. {footer(results)}"]) + "\n"


def footer(results: dict[str, Any]) -> str:
    """What the figures are, the settings that all objectives share, where they were measured."""
    settings, done = results["settings"], [one for one in results["runs"] if not one["error"]]
    parts = []
    if done:
        parts.append(
            f"{done[0]['held_out_problems']} problems x {done[0]['samples_per_problem']} samples, temperature "
            f"{settings['temperature']:g}, before and after {settings['num_steps']} steps; mean ± standard deviation "
            "over seeds. Clipped: share of trained tokens whose ratio was clipped from below / above, mean over steps "
            "and seeds. Entropy: nats a token in the last step."
        )
    parts.append(
        f"All have the settings of `{settings['config']}` (clip {settings['clip_low']:g} below, "
        f"{settings['clip_high']:g} above, learning rate {settings['learning_rate']:g}, "
        f"{settings['updates_per_batch']} updates a batch) and differ in `--loss.name` alone."
    )
    hardware, date = results["hardware"], str(results["date"])[:10]
    parts.append(
        f"{hardware['cores']} cores ({hardware['cpu']}), {date}, commit {_commits(results)}; {_together(done)}."
    )
    return " ".join(parts)


def plot(path: Path, results: dict[str, Any]) -> None:
    """Left: held-out pass@1 of every run (points) and its mean (bar), the mean before training as a line. Right: the
    mean over seeds of training's solved share, step by step."""
    import matplotlib  # here, not above: importing it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), dpi=150, layout="constrained")
    try:
        _plot_after(left, results)
        _plot_curves(right, results)
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, right):
            axes.set(ylim=(0, 1.09), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])  # room for a label above a point at 1
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
            axes.grid(axis="y", color="0.92")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{results['settings']['config']}, commit {_commits(results)}, {str(results['date'])[:10]}")
        figure.savefig(path)
    finally:
        pyplot.close(figure)


def _plot_after(axes: Any, results: dict[str, Any]) -> None:
    objectives = results["settings"]["objectives"]
    for place, objective in enumerate(objectives):
        after = _values(_of(results, objective), "pass_at_1_after")
        if not after:
            axes.text(place, 0.02, "failed", ha="center", va="bottom", color="0.4")
            continue
        color, mean = _COLORS[place % len(_COLORS)], statistics.mean(after)
        spots = [place + 0.14 * (number - (len(after) - 1) / 2) for number in range(len(after))]
        axes.scatter(spots, after, color=color, s=32, zorder=3, label="a seed" if place == 0 else None)
        ends = (place - 0.33, place + 0.33)
        axes.plot(ends, (mean, mean), color=color, linewidth=2.2, label="their mean" if place == 0 else None)
        above: dict[str, Any] = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        above["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # the line of before may pass behind
        axes.annotate(f"{mean:.1%}", (place, max(after)), fontsize=9, color="0.15", **above)
    before = _values(results["runs"], "pass_at_1_before")
    if before:
        told = f"before training: {statistics.mean(before):.1%}"
        axes.axhline(statistics.mean(before), color="0.35", linestyle="--", linewidth=1.2, label=told)
    axes.set(title="held-out pass@1 after training", xlim=(-0.6, len(objectives) - 0.4))
    axes.set_xticks(range(len(objectives)), objectives)
    if before:
        axes.legend(ncols=3, **_BELOW)


def _plot_curves(axes: Any, results: dict[str, Any]) -> None:
    for place, objective in enumerate(results["settings"]["objectives"]):
        curves = [one["solved_share"] for one in _of(results, objective)]
        points = []
        for number, values in enumerate(zip(*curves, strict=False), start=1):  # up to the shortest curve's last step
            measured = [value for value in values if value is not None]
            if measured:
                points.append((number, statistics.mean(measured)))
        if points:
            color, dashes = _COLORS[place % len(_COLORS)], _DASHES[place % len(_DASHES)]
            marker = "o" if len(points) == 1 else None
            axes.plot(
                *zip(*points, strict=True), color=color, linestyle=dashes, linewidth=1.8, marker=marker, label=objective
            )
    axes.set(title="training problems: solved share, mean over seeds", xlabel="step")
    if axes.lines:
        axes.legend(ncols=3, handlelength=3.2, **_BELOW)


def _rows(results: dict[str, Any]) -> list[list[str]]:
    """The table's cells: the head, the line before training, a line an objective."""
    seeds = results["settings"]["seeds"]
    head = ["objective", *(f"seed {seed}" for seed in seeds)]
    rows = [[*head, "mean", "clipped low / high", "entropy", "s a run"]]
    of_seed = [_values([one for one in results["runs"] if one["seed"] == seed], "pass_at_1_before") for seed in seeds]
    cells = [_percent(statistics.mean(values)) if values else "-" for values in of_seed]
    means = [statistics.mean(values) for values in of_seed if values]
    rows.append(["before training", *cells, _mean(means), "", "", ""])
    for objective in results["settings"]["objectives"]:
        found = {one["seed"]: one for one in results["runs"] if one["objective"] == objective}
        cells = ["failed" if found[seed]["error"] else _percent(found[seed]["pass_at_1_after"]) for seed in seeds]
        done = _of(results, objective)
        clipped = [_update(done, name, "mean") for name in (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE)]
        cells += [_mean(_values(done, "pass_at_1_after"))]
        cells += [" / ".join("-" if share is None else f"{100 * share:.2f} %" for share in clipped)]
        entropy, seconds = _update(done, names.ENTROPY, "last"), _values(done, "seconds")
        cells += ["-" if entropy is None else f"{entropy:.3f}", f"{statistics.mean(seconds):.0f}" if seconds else "-"]
        rows.append([f"`{objective}`", *cells])
    return rows


def _of(results: dict[str, Any], objective: str) -> list[dict[str, Any]]:
    """The runs of one objective that have a result."""
    return [one for one in results["runs"] if one["objective"] == objective and not one["error"]]


def _values(runs: list[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in runs if one[name] is not None]


def _update(runs: list[dict[str, Any]], name: str, which: str) -> float | None:
    """Mean over runs of the mean or the last of a metric of the update; None: no run has it."""
    values = [one["updates"][name][which] for one in runs if name in one["updates"]]
    return statistics.mean(values) if values else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mean(shares: list[float]) -> str:
    if not shares:
        return "-"
    spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{spread} %"


def _commits(results: dict[str, Any]) -> str:
    """That on which the runs were trained; several where they were not all trained on one."""
    commits = [session["commit"] for one in results["runs"] for session in one["sessions"]]
    return ", ".join(dict.fromkeys(commits)) or str(results["commit"])


def _together(runs: list[dict[str, Any]]) -> str:
    """How many runs went on at a time, and on what."""
    jobs = {(session["jobs"], session["pinned_to_one_core"]) for one in runs for session in one["sessions"]}
    told = []
    for number, pinned in sorted(jobs):
        told.append(
            f"{number} runs at a time{', each on one core' if pinned else ''}" if number > 1 else "one run at a time"
        )
    return " or ".join(told) or "how many runs went on at a time is not known"
