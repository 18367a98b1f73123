"""How fast `update` is, beside TRL's and google-tunix's, in one run: `python scripts/bench.py update --peers-env DIR`.

In: options. Out: a table, whether all compute the same loss, the targets, a JSON file and a picture where asked for.

Every contender is a process of its own with the same weights, batch, optimizer and threads, and a turn is one optimizer
step. The first steps of each compile and warm up; they count for nothing but the comparison of losses. On a machine
whose GPU jax sees, the bench is `gpu`'s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import machine, peers, rounds
from nouscoder_jax.bench.cpu import cores
from nouscoder_jax.bench.options import add_rounds, at_least
from nouscoder_jax.bench.peers import Plan
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.update import gpu, workload

TARGETS = {"trl": 2.5, "tunix": 4.5}
"""Ours should reach this many times their real tokens/s."""
LARGEST_DIFFERENCE = 1e-4
"""Of losses, and of gradient norms relative to ours; above it the contenders do not compute the same thing."""
NAMES = ("ours", "trl", "tunix")
_WARM_UP = 2
"""Steps of each before the first round: tunix's trainer compiles its step twice."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py update`."""
    parser.add_argument("--peers-env", type=Path, metavar="DIR", help="environment of TRL and tunix; made if new")
    parser.add_argument("--threads", default=2, type=at_least(1), help="cores and threads of each (default: 2)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", action="store_true", help="1.7B-shaped model on this GPU: TFLOP/s and MFU")
    place.add_argument("--cpu", action="store_true", help="the comparison on the CPU, although jax sees a GPU")
    add_rounds(parser, rounds=5, quick="16 sequences, a tiny model", names=NAMES)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where contenders did not compute the same loss. Raises UserError."""
    if options.quick:
        options.rounds = 1
    if options.gpu or (not options.cpu and gpu.is_here()):
        return gpu.run(options)
    facts = machine.describe(("jax", "flax"))
    with tempfile.TemporaryDirectory(prefix="bench-update-") as folder, cores(options.threads):
        settings = {"threads": options.threads}
        num_tokens = workload.write(Path(folder), quick=options.quick, settings=settings)
        with peers.started(make_plans(options), Path(folder)) as (contenders, _):
            rounds.take_turns(contenders, rounds=options.rounds, warm_up=_WARM_UP)
    found, same = report(contenders, facts)
    found.notes.append(f"{num_tokens:,} real tokens, {options.threads} threads, {options.rounds} rounds")
    found.finish(options)
    return 0 if same else 1


def make_plans(options: argparse.Namespace) -> list[Plan]:
    """Every contender that was asked for, ours first."""
    python = str(peers.peers_python(options.peers_env)) if options.peers_env else ""
    return [
        Plan(
            name=name,
            command=(sys.executable if name == "ours" else python, "-m", f"nouscoder_jax.bench.update.{name}"),
            num_threads=options.threads,
            missing="" if name == "ours" or python else "no environment given; use --peers-env DIR",
        )
        for name in NAMES
        if name in options.only
    ]


def differences(ours: Contender, other: Contender) -> dict[str, float]:
    """The largest difference of losses, and of gradient norms (before clipping) relative to ours, over all turns.

    Every step starts from the weights that the step before left, so that equal losses of later steps also mean equal
    gradients and equal AdamW."""
    pairs = list(zip([*ours.warm_up, *ours.rounds], [*other.warm_up, *other.rounds], strict=True))
    return {
        "losses": max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in pairs),
        "gradient norms": max(abs(1 - theirs["grad_norm"] / mine["grad_norm"]) for mine, theirs in pairs),
    }


def report(contenders: list[Contender], facts: dict[str, Any]) -> tuple[Report, bool]:
    """A row a contender, the targets; and whether all have computed the same."""
    figures = peers.FIGURES | {"s/update": ("wall_s", 1.0), "loss": ("loss", 1.0), "grad norm": ("grad_norm", 1.0)}
    parts = rounds.table(contenders, figures, reference=lambda one: "ours", ratio_of=("speed", "cpu_s_per_work"))
    found, all_same = Report(bench="update", facts=facts, **parts), True
    ours = rounds.find(contenders, "ours")
    for name, goal in TARGETS.items():
        other = rounds.find(contenders, name)
        got = rounds.ratio(ours, other)
        found.targets.append(Target(what=f"ours / {name}, real tokens/s", goal=goal, got=got))
        if ours and other:
            apart = differences(ours, other)
            same = max(apart.values()) <= LARGEST_DIFFERENCE
            told = ", ".join(f"{what} by at most {value:.1e}" for what, value in apart.items())
            found.notes.append(f"{'same' if same else 'NOT THE SAME'}: ours and {name} differ: {told}")
            found.content.setdefault("differences", {})[name] = apart
            all_same = all_same and same
    return found, all_same
