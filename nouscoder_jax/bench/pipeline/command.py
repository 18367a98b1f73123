"""Who waits for whom in the loop, simulated on a virtual clock: `python scripts/bench.py pipeline`.

In: options. Out: a table, a sentence on what binds, a JSON file and a picture where asked for.

The loop's own collectors, groups and steps run (nouscoder_jax/loop); engine, judge and trainer are numbers. By default
one machine: the synchronous order beside generation ahead of training. With `--gpus N` the config on so many: every
placement of training and generation, and of the fastest what becomes of a step when one thing alone is made better.
Nothing here is measured on a GPU: speeds are those of planning/, or of a plan that `scripts/plan.py --json FILE` wrote.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax import cli
from nouscoder_jax.bench import machine
from nouscoder_jax.bench.options import add_outputs, at_least, numbers
from nouscoder_jax.bench.pipeline.fleet import Placed, find_settings, read_plan, share_of
from nouscoder_jax.bench.pipeline.simulate import Measured, Setting, simulate
from nouscoder_jax.bench.pipeline.traffic import DrawnTraffic, Traffic
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, Fleet, find_gpu

IDLE_GOAL = 0.02
"""Idle share of the engine's slots that generation ahead of training should stay below."""
SMALLEST_GAIN = 0.03
"""Of a step's time: what gains less does not bind."""
_STALENESS, _SLOTS = [0, 1, 2, 4], [0, 12, 22, 32]
_STEPS, _STEPS_OF_FLEET = 24, 8
_WARM_UP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One simulated run.

    Example:
        Row(label="1 step ahead", placement="2 train + 6 generate", max_staleness=1, slots=22, binds="", base_s=None,
            measured=Measured(...))
    """

    label: str
    placement: str
    max_staleness: int
    slots: int
    """Of a server."""
    binds: str
    """What binds if this change helps most; empty: nothing is changed."""
    base_s: float | None
    """Seconds of a step without the change."""
    measured: Measured

    @property
    def gain(self) -> float:
        """Share of a step's time that the change saves."""
        return 1 - self.measured.step_s / self.base_s if self.base_s else 0.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py pipeline`."""
    parser.add_argument("--config", default=Path("configs/dapo.py"), type=Path, metavar="FILE", help="the experiment")
    parser.add_argument("--gpu", default="b200", metavar="KIND", help="b200, h100 or h200 (default: b200)")
    told = "say what binds on so many; default: compare orders on one machine, with its share of the groups"
    parser.add_argument("--gpus", default=0, type=at_least(1), metavar="N", help=told)
    parser.add_argument("--plan", type=Path, metavar="FILE", help="what scripts/plan.py --json FILE has compiled")
    parser.add_argument("--staleness", type=numbers(0), metavar="NUMBERS", help="default: 0,1,2,4; --gpus: config's")
    told = "sequences a server; 0: the config's (default: 0,12,22,32; --gpus: 0)"
    parser.add_argument("--slots", type=numbers(0), metavar="NUMBERS", help=told)
    parser.add_argument("--groups", default=0, type=at_least(1), metavar="N", help="groups a step (the config's)")
    parser.add_argument("--steps", type=at_least(1), metavar="N", help="steps measured (default: 24; --gpus: 8)")
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Simulates and reports; returns 0. Raises UserError."""
    if options.gpus and max(len(options.staleness or "1"), len(options.slots or "1")) > 1:
        raise UserError("with --gpus, --staleness and --slots take one number each; leave --gpus out to compare more")
    fleet = Fleet(gpu=find_gpu(options.gpu), num_gpus=options.gpus or GPUS_PER_MACHINE)
    config = _config(options, fleet)
    traffic = DrawnTraffic(max_tokens=config.rollout.max_completion_tokens, seed=0)
    plan = read_plan(options.plan) if options.plan else None
    slots = options.slots or ([0] if options.gpus else _SLOTS)
    placements = [find_settings(config, fleet, traffic, plan, slots=number) for number in slots]
    bench = Bench(traffic, num_steps=options.steps or (_STEPS_OF_FLEET if options.gpus else _STEPS))
    if options.gpus:
        rows = bench.what_binds(placements[0], with_staleness(config, (options.staleness or [None])[0]))
    else:
        rows = bench.orders(placements, config, options.staleness or _STALENESS)
    facts = {name: value for name, value in machine.describe(()).items() if name in ("date", "commit", "versions")}
    source = f"a plan by {plan['compiler']}" if plan else "formulas (give --plan for the compiled update)"
    rollout = config.rollout
    told = (
        f"{config.model.path} on {fleet.num_gpus} x {fleet.gpu.title}: {rollout.groups_per_step} groups of "
        f"{rollout.group_size} a step, {config.experience.updates_per_batch} updates, {config.verifier.num_workers} "
        f"judge workers; update times from {source}; new weights: {rollout.on_new_weights}; lengths drawn, not recorded"
    )
    report(rows, facts, told).finish(options)
    return 0


class Bench:
    """Runs simulations one after another and says so."""

    def __init__(self, traffic: Traffic, *, num_steps: int) -> None:
        """`num_steps`: that count, of each run."""
        self._traffic, self._num_steps = traffic, num_steps

    def orders(self, by_slots: list[list[Placed]], config: TrainConfig, staleness: list[int]) -> list[Row]:
        """The synchronous order, on shared GPUs too, and generation ahead: by slots a server and max_staleness."""
        rows = []
        for placements in by_slots:
            split = next((one for one in placements if not one.setting.colocated), placements[0])
            shared = next((one for one in placements if one.setting.colocated), None)
            if shared and 0 in staleness and not rows and shared is not split:
                rows.append(self._row("synchronous, shared GPUs", shared, with_staleness(config, 0)))
            for bound in staleness:
                label = f"{bound} step{'s' if bound > 1 else ''} ahead" if bound else "synchronous"
                rows.append(self._row(label, split, with_staleness(config, bound)))
        return rows

    def what_binds(self, placements: list[Placed], config: TrainConfig) -> list[Row]:
        """Every placement, and the fastest again with one thing changed at a time."""
        configs = [with_staleness(config, 0 if one.setting.colocated else None) for one in placements]
        rows = [self._row("as it is", *both) for both in zip(placements, configs, strict=True)]
        fastest = min(rows, key=lambda row: row.measured.step_s)
        placed, config = placements[rows.index(fastest)], configs[rows.index(fastest)]
        for label, binds, changed, setting in changes(config, placed.setting, room=placed.room):
            other, base_s = dataclasses.replace(placed, setting=setting), fastest.measured.step_s
            rows.append(self._row(label, other, changed, binds=binds, base_s=base_s))
        return rows

    def _row(
        self, label: str, placed: Placed, config: TrainConfig, *, binds: str = "", base_s: float | None = None
    ) -> Row:  # fmt: skip
        measured = simulate(config, placed.setting, self._traffic, num_steps=self._num_steps, warm_up=_WARM_UP)
        found = Row(
            label=label, placement=placed.told, max_staleness=config.rollout.max_staleness,
            slots=placed.setting.slots_per_server, binds=binds, base_s=base_s, measured=measured,
        )  # fmt: skip
        print(f"{label}: {placed.told}, {found.slots} slots: {measured.step_s:,.0f} s a step", file=sys.stderr)
        return found


def changes(config: TrainConfig, setting: Setting, *, room: int) -> list[tuple[str, str, TrainConfig, Setting]]:
    """(what is changed, what binds if it helps most, config, setting), one thing at a time. `room`: slots a server that
    its memory allows."""

    def changed(what: str, binds: str, **fields: Any) -> tuple[str, str, TrainConfig, Setting]:
        return what, binds, config, dataclasses.replace(setting, **fields)

    halves = {"export_s": setting.export_s / 2, "reload_s": setting.reload_s / 2}
    found = [
        changed("2 x engine GPUs", "the engine", servers=2 * setting.servers),
        changed("updates in half the time", "the trainer", update_s=_halved(setting.update_s)),
        changed("export, reload in half the time", "weight transfer", **halves),
        changed("2 x judge workers", "judge workers", num_workers=2 * setting.num_workers),
    ]
    if setting.slots_per_server < room:
        more = min(2 * setting.slots_per_server, room)
        found.append(changed(f"{more} slots a server", "slots", slots_per_server=more))
    if not setting.colocated:
        further = config.rollout.max_staleness + 1
        bound = "the bound on staleness"
        found.append((f"max_staleness {further}", bound, with_staleness(config, further), setting))
    return found


def _halved(seconds: Callable[[int], float]) -> Callable[[int], float]:
    return lambda tokens: seconds(tokens) / 2


def with_staleness(config: TrainConfig, bound: int | None) -> TrainConfig:
    """The config with another bound on staleness; None: its own."""
    changed = {} if bound is None else {"max_staleness": bound}
    return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, **changed))


def _config(options: argparse.Namespace, fleet: Fleet) -> TrainConfig:
    config = cli.load_config_file(options.config)
    # Placements are compared here, whatever the config's own is.
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, placement="split"), seed=0)
    try:
        return share_of(config, fleet, groups_per_step=options.groups)
    except ValueError as error:
        raise UserError(f"{options.config} on {fleet.num_gpus} GPUs contradicts itself: {error}") from error


def report(rows: list[Row], facts: dict[str, Any], told: str) -> Report:
    """A line a run, and what the runs say."""
    one, of_fleet = rows[0].measured, bool(rows[-1].binds)
    notes = [
        f"traffic: {one.completion_tokens:,.0f} tokens a completion, {one.cut_share:.0%} cut, {one.kept_share:.0%} of "
        f"the groups with unequal rewards; {sum(row.measured.short_batches for row in rows)} batches were short",
        "slots idle: the loop's own engine/idle_share. servers idle: time with nothing to decode, or loading: standing "
        "still for new weights or a trainer on the same GPUs. Slots that the bound on staleness cannot fill cost "
        "nothing.",
        told,
    ]
    found = Report(
        bench="pipeline", facts=facts, notes=[*([what_binds(rows)] if of_fleet else []), *notes], num_labels=2,
        heads=["run", "GPUs", "staleness", "slots", "s/step", "tokens/s", "slots idle", "servers idle", "loading",
               "trainer waits", "judge"],
        rows=[_cells(row) for row in rows], content={"told": told, "runs": [to_dict(row) for row in rows]},
    )  # fmt: skip
    names = [f"{row.label} ({row.max_staleness}), {row.placement}, {row.slots} slots" for row in rows]
    for head, figure in (("s a step", "step_s"), ("slots idle", "engine_idle_share")):
        values = [[getattr(row.measured, figure)] for row in rows]
        found.panels = {**found.panels, head: dict(zip(names, values, strict=True))}
    for bound in sorted({row.max_staleness for row in rows if row.max_staleness and not of_fleet}):
        got = min(row.measured.engine_idle_share for row in rows if row.max_staleness == bound)
        what = f"max_staleness {bound}: slots idle"
        found.targets.append(Target(what=what, goal=IDLE_GOAL, got=got, at_least=False))
    return found


def _cells(row: Row) -> list[str]:
    one = row.measured
    shares = one.engine_idle_share, one.server_idle_share, one.loading_share, one.trainer_idle_share
    step = f"{one.step_s:,.0f}" + (f" ({-row.gain:+.0%})" if row.binds else "")
    cells = [row.label, row.placement, str(row.max_staleness), str(row.slots), step, f"{one.tokens_per_s:,.0f}"]
    return [*cells, *(f"{share:.1%}" for share in (*shares, one.judge_busy_share))]


def to_dict(row: Row) -> dict[str, Any]:
    """For JSON, rounded."""
    measured = {name: round(value, 4) for name, value in asdict(row.measured).items()}
    return {name: getattr(row, name) for name in Row.__dataclass_fields__} | {"measured": measured}


def what_binds(rows: list[Row]) -> str:
    """In a sentence: which change helps most."""
    changed = sorted((row for row in rows if row.binds), key=lambda row: -row.gain)
    best = changed[0]
    gains = "; ".join(f"{row.label} {-row.gain:+.0%}" for row in changed)
    if best.gain < SMALLEST_GAIN:
        return f"nothing binds alone: {gains}"
    return f"{best.binds} binds: a step takes {best.measured.step_s:,.0f} s instead of {best.base_s:,.0f}: {gains}"
