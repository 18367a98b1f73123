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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from nouscoder_jax import cli
from nouscoder_jax.bench import machine
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, numbers
from nouscoder_jax.bench.pipeline import table
from nouscoder_jax.bench.pipeline.fleet import Placed, find_settings, read_plan, share_of
from nouscoder_jax.bench.pipeline.simulate import Setting, simulate
from nouscoder_jax.bench.pipeline.table import Row
from nouscoder_jax.bench.pipeline.traffic import DrawnTraffic, RecordedTraffic, Traffic
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, Fleet, find_gpu

_STALENESS, _SLOTS = "0,1,2,4", "0,12,22,32"
_STEPS, _STEPS_OF_FLEET = 24, 8
_WARM_UP = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py pipeline`."""
    parser.add_argument("--config", default=Path("configs/dapo.py"), type=Path, metavar="FILE", help="the experiment")
    parser.add_argument("--gpu", default="b200", metavar="KIND", help="b200, h100 or h200 (default: b200)")
    parser.add_argument(
        "--gpus", default=0, type=int, metavar="N",
        help="say what binds on so many; default: compare orders on one machine, with its share of the groups",
    )  # fmt: skip
    parser.add_argument("--plan", type=Path, metavar="FILE", help="what scripts/plan.py --json FILE has compiled")
    parser.add_argument(
        "--rollouts", type=Path, metavar="RUN_DIR", help="lengths and verification times of a run; default: drawn"
    )
    parser.add_argument("--staleness", metavar="NUMBERS", help=f"max_staleness (default: {_STALENESS}; config's)")
    parser.add_argument(
        "--slots", metavar="NUMBERS", help=f"sequences a server; 0: the config's (default: {_SLOTS}; 0)"
    )
    parser.add_argument("--groups", default=0, type=int, metavar="N", help="groups a step (default: the config's)")
    parser.add_argument("--workers", default=0, type=int, metavar="N", help="judge workers (the config's)")
    parser.add_argument(
        "--steps", default=0, type=int, metavar="N", help=f"steps measured (default: {_STEPS}, {_STEPS_OF_FLEET})"
    )
    parser.add_argument("--seed", default=0, type=int, help="of everything drawn (default: 0)")
    add_outputs(parser, plot=True)


def run(options: argparse.Namespace) -> int:
    """Simulates and reports; returns 0. Raises UserError."""
    staleness, slots = _check(options)
    started = time.monotonic()
    fleet = Fleet(gpu=find_gpu(options.gpu), num_gpus=options.gpus or GPUS_PER_MACHINE)
    config = _config(options, fleet)
    limit = config.rollout.max_completion_tokens
    traffic = (
        RecordedTraffic(options.rollouts) if options.rollouts else DrawnTraffic(max_tokens=limit, seed=options.seed)
    )
    plan = read_plan(options.plan) if options.plan else None
    bench = _Bench(config, traffic, num_steps=options.steps or (_STEPS_OF_FLEET if options.gpus else _STEPS))
    if options.gpus:
        config = _with(config, max_staleness=staleness[0]) if staleness else config
        bench.config = config
        rows = bench.what_binds(find_settings(config, fleet, traffic, plan, slots=slots[0]))
    else:
        by_slots = {number: find_settings(config, fleet, traffic, plan, slots=number) for number in slots}
        rows = bench.orders(by_slots, staleness)
    facts = {name: value for name, value in machine.describe(()).items() if name in ("date", "commit", "versions")}
    told = _told(config, fleet, traffic, plan)
    found = table.report(rows, facts, told, seconds=time.monotonic() - started)
    found.show(machine.console(width_chars=160))
    found.write(options.out)
    if options.plot:
        table.plot(options.plot, rows, title=told[0].partition(";")[0])
    return 0


class _Bench:
    """Runs simulations one after another and says so."""

    def __init__(self, config: TrainConfig, traffic: Traffic, *, num_steps: int) -> None:
        self.config = config
        self._traffic, self._num_steps = traffic, num_steps
        self._console = Console(stderr=True, highlight=False)

    def orders(self, by_slots: dict[int, list[Placed]], staleness: list[int]) -> list[Row]:
        """The synchronous order, on shared GPUs too, and generation ahead: by slots a server and max_staleness."""
        rows = []
        for placements in by_slots.values():
            split = next((one for one in placements if not one.setting.colocated), placements[0])
            shared = next((one for one in placements if one.setting.colocated), None)
            if shared and 0 in staleness and not rows and shared is not split:
                rows.append(self._row("synchronous, shared GPUs", shared, _with(self.config, max_staleness=0)))
            for bound in staleness:
                config = _with(self.config, max_staleness=bound)
                label = f"{bound} step{'s' if bound > 1 else ''} ahead" if bound else "synchronous"
                rows.append(self._row(label, split, config))
        return rows

    def what_binds(self, placements: list[Placed]) -> list[Row]:
        """Every placement, and the fastest again with one thing changed at a time."""
        rows = []
        for placed in placements:
            config = _with(self.config, max_staleness=0) if placed.setting.colocated else self.config
            rows.append(self._row("as it is", placed, config, planned=True))
        fastest = min(rows, key=lambda row: row.measured.step_s)
        placed = placements[rows.index(fastest)]
        config = _with(self.config, max_staleness=fastest.max_staleness)
        for label, binds, changed, setting in changes(config, placed.setting, room=placed.room):
            other = dataclasses.replace(placed, setting=setting)
            rows.append(self._row(label, other, changed, binds=binds, changed_from=fastest))
        return rows

    def _row(
        self, label: str, placed: Placed, config: TrainConfig, *,
        planned: bool = False, binds: str = "", changed_from: Row | None = None,
    ) -> Row:  # fmt: skip
        where = f"{placed.told}, max_staleness {config.rollout.max_staleness}, {placed.setting.slots_per_server} slots"
        with self._console.status("") as status:

            def on_step(step: int) -> None:
                status.update(f"{label}: {where}: step {step} of {self._num_steps + _WARM_UP}")

            measured = simulate(
                config, placed.setting, self._traffic, num_steps=self._num_steps, warm_up=_WARM_UP, on_step=on_step
            )
        self._console.print(f"{label}: {where}: {measured.step_s:,.0f} s a step", style="dim", soft_wrap=True)
        return Row(
            label=label,
            placement=placed.told,
            max_staleness=config.rollout.max_staleness,
            slots=placed.setting.slots_per_server,
            num_slots=placed.setting.slots_per_server * placed.setting.servers,
            plan_step_s=placed.plan.step_s if planned else None,
            binds=binds,
            changed_from_s=changed_from.measured.step_s if changed_from else None,
            measured=measured,
        )


def changes(config: TrainConfig, setting: Setting, *, room: int) -> list[tuple[str, str, TrainConfig, Setting]]:
    """(what is changed, what binds if it helps most, config, setting), one thing at a time. `room`: slots a server that
    its memory allows."""

    def halved(seconds: Callable[[int], float]) -> Callable[[int], float]:
        return lambda tokens: seconds(tokens) / 2

    def changed(**fields: Any) -> Setting:
        return dataclasses.replace(setting, **fields)

    found = [
        ("2 x engine GPUs", "the engine", config, changed(servers=2 * setting.servers)),
        ("updates in half the time", "the trainer", config, changed(update_s=halved(setting.update_s))),
        (
            "export, reload in half the time", "weight transfer", config,
            changed(export_s=setting.export_s / 2, reload_s=setting.reload_s / 2),
        ),
        ("2 x judge workers", "judge workers", config, changed(num_workers=2 * setting.num_workers)),
    ]  # fmt: skip
    if setting.slots_per_server < room:
        more = min(2 * setting.slots_per_server, room)
        found.append((f"{more} slots a server", "slots", config, changed(slots_per_server=more)))
    if not setting.colocated:
        further = config.rollout.max_staleness + 1
        bound = "the bound on staleness"
        found.append((f"max_staleness {further}", bound, _with(config, max_staleness=further), setting))
    return found


def _with(config: TrainConfig, *, max_staleness: int) -> TrainConfig:
    """The config with another bound on staleness, on GPUs of their own or shared."""
    rollout = dataclasses.replace(config.rollout, max_staleness=max_staleness)
    return dataclasses.replace(config, rollout=rollout)


def _config(options: argparse.Namespace, fleet: Fleet) -> TrainConfig:
    config = cli.load_config_file(options.config)
    # Placements are compared here, whatever the config's own is.
    config = dataclasses.replace(
        config, server=dataclasses.replace(config.server, placement="split"), seed=options.seed
    )
    if options.workers:
        verifier = dataclasses.replace(config.verifier, num_workers=options.workers)
        config = dataclasses.replace(config, verifier=verifier)
    try:
        return share_of(config, fleet, groups_per_step=options.groups)
    except ValueError as error:
        raise UserError(f"{options.config} on {fleet.num_gpus} GPUs contradicts itself: {error}") from error


def _told(config: TrainConfig, fleet: Fleet, traffic: Traffic, plan: dict[str, Any] | None) -> list[str]:
    rollout, experience = config.rollout, config.experience
    source = f"a plan by {plan['compiler']}" if plan else "formulas (give --plan for the compiled update)"
    return [
        f"{config.model.path} on {fleet.num_gpus} x {fleet.gpu.title}: {rollout.groups_per_step} groups of "
        f"{rollout.group_size} a step, {experience.updates_per_batch} updates, {config.verifier.num_workers} judge "
        f"workers; update times from {source}; new weights: {rollout.on_new_weights}",
        traffic.told,
    ]


def _check(options: argparse.Namespace) -> tuple[list[int], list[int]]:
    """max_staleness and slots to try. Raises UserError."""
    fleet = bool(options.gpus)
    staleness = numbers("staleness", options.staleness or ("" if fleet else _STALENESS))
    slots = numbers("slots", options.slots or ("0" if fleet else _SLOTS))
    if fleet and max(len(staleness), len(slots)) > 1:
        raise UserError(
            "with --gpus, --staleness and --slots take one number each; leave --gpus out to compare several"
        )
    check_numbers(options, "gpus", "groups", "workers", "steps", "seed", at_least=0)
    check_outputs(options)
    return staleness, slots
