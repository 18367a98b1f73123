"""Which curves the page has, and what each means.

In: lines of metrics of several runs. Out: charts as JSON values: a title, a sentence, series of points. Meanings are
those of metrics/names.py; a chart or a series without a point is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nouscoder_jax.metrics import names

OUTCOMES = "Outcomes"
"""A chart without the outcomes that no rollout had."""
MIXED = "groups/mixed"
"""Made here: groups that are neither all solved nor none solved."""


class Chart(NamedTuple):
    """A chart of the page.

    Example:
        Chart("Entropy", {"entropy": "update/entropy"}, unit="nats")
    """

    title: str
    series: Mapping[str, str]
    """Name in the legend -> metric."""
    unit: str
    """share, or what stands at the axis."""
    note: str = ""
    """What it means; empty: the meaning of its one metric."""
    log: bool = False
    """Values of several sizes."""


CHARTS = (
    Chart("Held-out pass@1", {"pass@1": names.HELD_OUT_PASS_AT_1}, "share"),
    Chart("Reward", {"mean reward": names.REWARD_MEAN}, "reward"),
    Chart(
        "Groups: solved, mixed, unsolved",
        {"all solved": names.GROUPS_ALL_SOLVED, "mixed": MIXED, "none solved": names.GROUPS_NONE_SOLVED},
        "groups",
        "Groups of a step in which every, some or no program was accepted. Only mixed groups have advantages.",
    ),
    Chart(
        OUTCOMES,
        {"accepted": names.SOLVED_SHARE}
        | {reason.replace("_", " "): metric for reason, metric in names.OUTCOME_SHARES.items()},
        "share",
        "Share of the step's judged rollouts by what the judge concluded, dropped groups included.",
    ),
    Chart("Entropy", {"entropy": names.ENTROPY}, "nats"),
    Chart(
        "Ratio clips",
        {"clipped from above": names.CLIP_HIGH_SHARE, "clipped from below": names.CLIP_LOW_SHARE},
        "share",
        "Share of trained tokens whose ratio of new to old probability was cut at a bound: they push no further.",
    ),
    Chart(
        "Engine and trainer drift",
        {
            "trained tokens": names.DRIFT_MEAN,
            "of equal weights": names.ON_POLICY_DRIFT_MEAN,
            "probe": names.PROBE_DRIFT_MEAN,
        },
        "nats",
        "Mean |trainer logprob - engine logprob|: over trained tokens, over those drawn with the very weights that "
        "they are compared with, and over fixed sequences. Only the first may grow with staleness.",
        log=True,
    ),
    Chart(
        "Lengths",
        {
            "mean": names.COMPLETION_TOKENS_MEAN,
            "longest": names.COMPLETION_TOKENS_MAX,
            "held-out mean": names.HELD_OUT_COMPLETION_TOKENS_MEAN,
        },
        "tokens",
        "Completion tokens: mean and longest of the step, mean of held-out samples.",
    ),
    Chart(
        "Truncation",
        {"training": names.TRUNCATED_SHARE, "held-out": names.HELD_OUT_TRUNCATED_SHARE},
        "share",
        "Share of completions cut at the length limit.",
    ),
    Chart(
        "Staleness",
        {
            "batches, mean": names.STALENESS_BATCHES_MEAN,
            "batches, largest": names.STALENESS_BATCHES_MAX,
            "versions, mean": names.STALENESS_VERSIONS_MEAN,
            "versions, largest": names.STALENESS_VERSIONS_MAX,
        },
        "batches or versions",
        "Batches trained between the start of a group and its own batch (rollout.max_staleness bounds them), and how "
        "many policy versions old a completion's oldest token was.",
    ),
    Chart(
        "Seconds by stage",
        {"whole step": names.SECONDS_TOTAL} | {stage: names.SECONDS_PREFIX + stage for stage in names.STAGES},
        "seconds",
        "Wall seconds of the step in which each stage was going on; generate and verify overlap.",
    ),
    Chart(
        "Idle shares",
        {"engine": names.ENGINE_IDLE_SHARE, "trainer": names.TRAINER_IDLE_SHARE},
        "share",
        "Share of the step, without its evaluation, in which the engine's slots generated nothing, and in which no "
        "update was computed.",
    ),
    Chart("Gradient norm", {"gradient norm": names.GRAD_NORM}, "norm"),
)


def charts_of(runs: Mapping[str, Sequence[Mapping[str, Any]]], notes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The charts for which there are points. `runs`: name -> lines of metrics; `notes`: title -> another sentence."""
    charts = []
    for chart in CHARTS:
        series = [
            {"run": run, "label": label, "meaning": _meaning(metric), "x": steps, "y": values}
            for run, lines in runs.items()
            for label, metric in chart.series.items()
            for steps, values in [_points(lines, metric)]
            if steps
        ]
        if chart.title == OUTCOMES:
            happened = {one["label"] for one in series if any(one["y"])}
            series = [one for one in series if one["label"] in happened]
        note = chart.note or _sentence(_meaning(next(iter(chart.series.values()))))
        note = " ".join(filter(None, (note, notes.get(chart.title))))
        if series:
            charts.append({"title": chart.title, "unit": chart.unit, "log": chart.log, "note": note, "series": series})
    return charts


def samples_note(counts: Mapping[str, Mapping[int, int]]) -> str:
    """How many samples of a problem held-out pass@1 rests on. `counts`: run -> step -> samples a problem."""
    told: dict[str, list[str]] = {}
    for run, by_step in counts.items():
        if by_step:
            told.setdefault(_samples(by_step), []).append(run)
    if len(told) < 2:
        return "".join(f"{text}." for text in told)
    return "; ".join(f"{', '.join(runs)}: {text}" for text, runs in told.items()) + "."


def _samples(by_step: Mapping[int, int]) -> str:
    ends = {by_step[min(by_step)], by_step[max(by_step)]}
    between = set(by_step.values()) - ends
    text = " and ".join(map(str, sorted(ends))) + " samples a problem"
    return text + (f" at the ends, {' and '.join(map(str, sorted(between)))} between" if between else "")


def _points(lines: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values, where the metric was measured."""
    steps, values = [], []
    for line in lines:
        value = _mixed(line) if metric == MIXED else line.get(metric)
        if isinstance(value, int | float):
            steps.append(int(line[names.STEP]))
            values.append(float(value))
    return steps, values


def _mixed(line: Mapping[str, Any]) -> float | None:
    parts = (names.GROUPS_USED, names.GROUPS_DROPPED, names.GROUPS_ALL_SOLVED, names.GROUPS_NONE_SOLVED)
    used, dropped, solved, unsolved = (line.get(name) for name in parts)
    if used is None or dropped is None or solved is None or unsolved is None:
        return None
    return float(used + dropped - solved - unsolved)


def _meaning(metric: str) -> str:
    return "groups with accepted and other programs" if metric == MIXED else names.METRICS[metric].meaning


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
