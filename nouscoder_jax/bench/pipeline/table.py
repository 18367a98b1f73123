"""Results of `bench.py pipeline` as text, as JSON and as a picture.

In: `Row`s, one a simulated run. Out: a `Report` with sentences, a PNG file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.bench.pipeline.simulate import Measured
from nouscoder_jax.bench.results import Report, picture

IDLE_GOAL = 0.02
"""Idle share of the engine's slots that generation ahead of training should stay below."""

SMALLEST_GAIN = 0.03
"""Of a step's time: what gains less does not bind."""

LEGEND = (
    "slots idle: the loop's own engine/idle_share. servers idle: time with nothing to decode, or standing still; of it "
    "loading: standing still for new weights or a trainer on the same GPUs. trainer waits: for a batch.",
    "More slots than the bound on staleness can fill stand idle and cost nothing: look at servers idle and tokens/s.",
)

_COLORS = {"synchronous": "#d55e00", "ahead": "#0b6e4f", "base": "#0b6e4f", "change": "0.6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One simulated run.

    Example:
        Row(label="1 step ahead", placement="2 train + 6 generate", max_staleness=1, slots=22, num_slots=132,
            plan_step_s=446.0, binds="", changed_from_s=None, measured=Measured(...))
    """

    label: str
    placement: str
    max_staleness: int
    slots: int
    """Of a server."""
    num_slots: int
    """Of all servers."""
    plan_step_s: float | None
    """What `scripts/plan.py` says of the config's own staleness; None: nothing."""
    binds: str
    """What binds if this change helps most; empty: nothing is changed."""
    changed_from_s: float | None
    """Seconds of a step without the change."""
    measured: Measured

    @property
    def gain(self) -> float:
        """Share of a step's time that the change saves."""
        return 1 - self.measured.step_s / self.changed_from_s if self.changed_from_s else 0.0


_COLUMNS = {
    "GPUs": lambda row: _short(row.placement),
    "max\nstale": lambda row: str(row.max_staleness),
    "slots": lambda row: str(row.slots),
    "s/step": lambda row: f"{row.measured.step_s:,.0f}" + (f" ({-row.gain:+.0%})" if row.binds else ""),
    "plan": lambda row: "" if row.plan_step_s is None else f"{row.plan_step_s:,.0f}",
    "tokens/s": lambda row: f"{row.measured.tokens_per_s:,.0f}",
    "slots\nidle": lambda row: _percent(row.measured.engine_idle_share),
    "servers\nidle": lambda row: _percent(row.measured.server_idle_share),
    "loading": lambda row: _percent(row.measured.loading_share),
    "seq. a\nserver": lambda row: f"{row.measured.sequences_per_server:.0f}",
    "trainer\nwaits": lambda row: _percent(row.measured.trainer_idle_share),
    "update": lambda row: _percent(row.measured.update_share),
    "weights": lambda row: _percent(row.measured.weights_share),
    "judge": lambda row: _percent(row.measured.judge_busy_share),
    "staleness\nmean, max": lambda row: f"{row.measured.staleness_mean:.1f}, {row.measured.staleness_max}",
}
_OF_ORDERS_ONLY = ("slots\nidle", "staleness\nmean, max")
_OF_FLEETS_ONLY = ("plan", "update", "weights", "judge")


def report(rows: list[Row], facts: Mapping[str, Any], told: list[str], *, seconds: float) -> Report:
    """A line a run, without the columns that say nothing about what is compared; what the runs say. `told`: what was
    simulated; `seconds`: that the simulation took."""
    of_fleet = bool(rows[-1].binds)
    left_out = _OF_ORDERS_ONLY if of_fleet else _OF_FLEETS_ONLY
    columns = {head: shown for head, shown in _COLUMNS.items() if head not in left_out}
    said = conclusions(rows)
    return Report(
        bench="pipeline", facts=facts, title="pipeline (simulated)",
        heads=["what is changed" if of_fleet else "order", *columns],
        rows=[[row.label, *(shown(row) for shown in columns.values())] for row in rows],
        notes=[*said, *told, *LEGEND, f"simulated in {seconds:.0f} s"],
        content={"told": told, "conclusions": said, "runs": [to_dict(row) for row in rows]},
    )  # fmt: skip


def conclusions(rows: list[Row]) -> list[str]:
    """What the runs say, in sentences."""
    one = rows[0].measured
    lines = [
        f"what came out of the traffic: {one.completion_tokens:,.0f} tokens a completion, {one.cut_share:.0%} cut, "
        f"{one.kept_share:.0%} of the groups with unequal rewards"
    ]
    short = sum(row.measured.short_batches for row in rows)
    lines += [f"{short} batches were short: experience.max_draws_per_batch"] if short else []
    return [*_what_binds(rows), *lines] if rows[-1].binds else [*_idle(rows), *lines]


def to_dict(row: Row) -> dict[str, Any]:
    """The run without its picture."""
    content = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    measured = row.measured
    names = [field.name for field in dataclasses.fields(measured) if field.name not in ("timeline", "updates")]
    content["measured"] = {name: round(getattr(measured, name), 4) for name in names}
    return content


def _idle(rows: list[Row]) -> list[str]:
    lines = [f"{row.label}: {_idle_told(row)}" for row in rows if row.max_staleness == 0]
    low = [row for row in rows if row.measured.engine_idle_share < IDLE_GOAL]
    if not low:
        return [*lines, f"no setting keeps less than {IDLE_GOAL:.0%} of the slots idle"]
    for bound in sorted({row.max_staleness for row in low}):
        best = max((row for row in low if row.max_staleness == bound), key=lambda row: row.measured.tokens_per_s)
        lines.append(f"below {IDLE_GOAL:.0%} of the slots idle at max_staleness {bound}: {_idle_told(best)}")
    best = max(rows, key=lambda row: row.measured.tokens_per_s)
    return [*lines, f"fastest: max_staleness {best.max_staleness}, {_idle_told(best)}"]


def _idle_told(row: Row) -> str:
    one = row.measured
    return (
        f"{row.placement}, {row.slots} slots a server, {_percent(one.engine_idle_share)} of them idle, servers "
        f"{_percent(one.server_idle_share)}; {one.tokens_per_s:,.0f} tokens/s"
    )


def _what_binds(rows: list[Row]) -> list[str]:
    changed = sorted((row for row in rows if row.binds), key=lambda row: -row.gain)
    best = changed[0]
    others = "; ".join(f"{row.label} {-row.gain:+.0%}" for row in changed[1:])
    base = next(row for row in rows if not row.binds and row.measured.step_s == best.changed_from_s)
    placed = f"{base.placement}, max_staleness {base.max_staleness}, {base.slots} slots a server"
    if best.gain < SMALLEST_GAIN:
        return [f"{placed}: nothing binds alone: {best.label} {-best.gain:+.0%}; {others}"]
    return [
        f"{placed}: {best.binds} binds: with {best.label} a step takes {best.measured.step_s:,.0f} s instead of "
        f"{base.measured.step_s:,.0f} ({-best.gain:+.0%}); {others}"
    ]


def _short(placement: str) -> str:
    return placement.replace(" train", "").replace(" generate", "").replace(" GPUs, both", " both")


def _percent(share: float) -> str:
    share = max(0.0, share)
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def plot(path: Path, rows: list[Row], *, title: str) -> None:
    """Above: decoded sequences over time, the first synchronous run and the fastest ahead on the same machines, updates
    as bars. Below: what each run is compared by, idle shares by order or the time of a step by change."""
    shown = _shown(rows)
    ratios = [2.0] * len(shown) + [0.6 + 0.3 * len(rows)]
    size = (11, 2.2 * len(shown) + 1.2 + 0.3 * len(rows))
    with picture(path, len(shown) + 1, 1, title=title, figsize=size, height_ratios=ratios) as axes:
        span_s = min(row.measured.timeline[-1][0] for row in shown)
        for one, row in zip(axes, shown, strict=False):
            _draw_timeline(one, row, span_s=span_s)
        axes[len(shown) - 1].set_xlabel("hours (virtual)")
        (_draw_steps if rows[-1].binds else _draw_idle)(axes[-1], rows)


def _shown(rows: list[Row]) -> list[Row]:
    """Whose timelines are drawn: synchronous and ahead with the same machines and slots, or the first placements."""
    if rows[-1].binds:
        return [row for row in rows if not row.binds][:2]
    ahead = max((row for row in rows if row.max_staleness), key=_rank, default=None)
    synchronous = [row for row in rows if row.max_staleness == 0]
    if ahead is None or not synchronous:
        return [ahead or synchronous[0]]
    same = [row for row in synchronous if (row.placement, row.slots) == (ahead.placement, ahead.slots)]
    return [(same or synchronous)[0], ahead]


def _rank(row: Row) -> tuple[bool, float]:
    """Settings that keep the slots busy first, the faster before the slower."""
    return row.measured.engine_idle_share < IDLE_GOAL, row.measured.tokens_per_s


def _draw_timeline(axes: Any, row: Row, *, span_s: float) -> None:
    changes = [(when_s, number) for when_s, number in row.measured.timeline if when_s <= span_s]
    hours = [when_s / 3600 for when_s, _ in changes]
    color = _COLORS["ahead" if row.max_staleness else "synchronous"]
    axes.fill_between(hours, [number for _, number in changes], step="post", color=color, linewidth=0, alpha=0.8)
    top = max(number for _, number in changes)
    for begin_s, end_s in row.measured.updates:
        if end_s <= span_s:
            axes.plot(
                [begin_s / 3600, end_s / 3600], [1.08 * top] * 2, color="black", linewidth=3, solid_capstyle="butt"
            )
    told = (
        f"{row.label}: {row.placement}, max_staleness {row.max_staleness}, {row.slots} slots a server; black: updates"
    )
    axes.set_title(told, fontsize=9, loc="left")
    axes.set(ylabel="sequences decoded", xlim=(0, span_s / 3600), ylim=(0, 1.16 * top))


def _draw_idle(axes: Any, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        slots, servers = max(0.0, row.measured.engine_idle_share), row.measured.server_idle_share
        color = _COLORS["ahead" if row.max_staleness else "synchronous"]
        axes.barh(place - 0.18, slots, height=0.34, color=color)
        axes.barh(place + 0.18, servers, height=0.34, color=color, alpha=0.4)
        told = f"{_percent(slots)}, servers {_percent(servers)}; {row.measured.tokens_per_s:,.0f} tokens/s"
        axes.annotate(
            told, (max(slots, servers), place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
    labels = [f"{row.label} ({row.max_staleness}), {_short(row.placement)}, {row.slots} slots" for row in rows]
    axes.set(
        xlabel="idle share: slots (dark), servers (light); in brackets max_staleness",
        yticks=range(len(rows)),
        yticklabels=labels,
        xlim=(0, 1.3),
    )
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.invert_yaxis()


def _draw_steps(axes: Any, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        seconds = row.measured.step_s
        axes.barh(place, seconds, height=0.6, color=_COLORS["change" if row.binds else "base"])
        told = f"{seconds:,.0f} s" + (f" ({-row.gain:+.0%})" if row.binds else f", plan {row.plan_step_s or 0:,.0f} s")
        axes.annotate(told, (seconds, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    labels = [row.label if row.binds else f"{_short(row.placement)} GPUs" for row in rows]
    axes.set(xlabel="seconds a step", yticks=range(len(rows)), yticklabels=labels)
    axes.margins(x=0.2)
    axes.invert_yaxis()
