"""How fast `update` is, beside TRL's and google-tunix's, in one run: `python scripts/bench.py update --peers-env DIR`.

In: options. Out: a table, whether all compute the same loss, the targets, a JSON file and a picture where asked for.

Every contender is a process of its own with the same weights, batch, optimizer and threads, and takes one optimizer
step when it is its turn; the others wait. Turns rotate over several rounds, so that the machine's noise hits all alike.
The first steps of each compile and warm up; they count for nothing but the comparison of losses. On a machine whose
GPU jax sees, the bench is `gpu`'s.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import contenders, machine
from nouscoder_jax.bench.contenders import Plan, Result, times
from nouscoder_jax.bench.cpu import cores
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, chosen
from nouscoder_jax.bench.results import Report, Target, median, plot_spreads, readable, spread
from nouscoder_jax.bench.update import peers, workload
from nouscoder_jax.config import UserError

TARGETS = {"trl": 2.5, "tunix": 4.5}
"""Ours should reach this many times their real tokens/s."""
LARGEST_DIFFERENCE = 1e-4
"""Of losses, and of gradient norms relative to ours; above it the contenders do not compute the same thing."""
NAMES = ("ours", "trl", "tunix")

_WARM_UP = 2
"""Steps of each before the first round: tunix's trainer compiles its step twice."""
_QUICK_SEQUENCES = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py update`."""
    parser.add_argument("--peers-env", type=Path, metavar="DIR", help="environment of TRL and tunix; made if new")
    parser.add_argument("--rounds", default=5, type=int, help="turns of each contender (default: 5)")
    parser.add_argument("--threads", default=2, type=int, help="cores and threads of each (default: 2)")
    parser.add_argument("--only", default="", metavar="NAMES", help="of ours,trl,tunix (default: all)")
    parser.add_argument("--row-tokens", default=workload.ROW_TOKENS, type=int, help="ours: length of a row")
    parser.add_argument("--rows", default=workload.ROWS, type=int, help="ours: rows of a micro-batch")
    parser.add_argument("--trl-rows", default=8, type=int, help="TRL: sequences of a micro-batch (default: 8)")
    parser.add_argument("--quick", action="store_true", help="1 round, 16 sequences, a tiny model: does it work?")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", action="store_true", help="1.7B-shaped model on this GPU: TFLOP/s and MFU")
    place.add_argument("--cpu", action="store_true", help="the comparison on the CPU, although jax sees a GPU")
    add_outputs(parser, plot=True)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where contenders did not compute the same loss. Raises UserError."""
    _check(options)
    console = machine.console(width_chars=160)
    if options.gpu or (not options.cpu and _sees_gpu()):
        from nouscoder_jax.bench.update import gpu

        return gpu.measure(console, quick=options.quick, out=options.out)
    facts = machine.describe(("jax", "flax"))
    with tempfile.TemporaryDirectory(prefix="bench-update-") as folder:
        num_tokens = _write_workload(Path(folder), options)
        plans = _plans(options)
        with cores(options.threads):
            results, said = contenders.measure_all(plans, Path(folder), rounds=options.rounds, warm_up=_WARM_UP)
    facts["load_after"] = round(os.getloadavg()[0], 2)
    found, same = report(results, said.get("extras", {}), facts)
    sizes = f"{num_tokens:,} real tokens, {options.threads} threads, {options.rounds} rounds"
    found.notes.append(f"{sizes}; median (lowest..highest). `compile s`: not counted.")
    names = ("rounds", "threads", "row_tokens", "rows", "quick")
    found.content["settings"] = {name: getattr(options, name) for name in names}
    found.show(console)
    found.write(options.out)
    if options.plot:
        speeds = {one.name: one.values("tokens_per_s") for one in results if one.turns}
        title = f"update: {sizes}; {facts['commit']}, {facts['date']}"
        plot_spreads(options.plot, {"real tokens/s": speeds}, title=title, colors={"ours": "#0b6e4f"})
    return 0 if same else 1


def differences(ours: Result, other: Result) -> dict[str, float]:
    """The largest difference of losses, and of gradient norms relative to ours, over the warm-up and all rounds.

    Every step starts from the weights that the step before left, so that equal losses of later steps also mean equal
    gradients and equal AdamW."""
    pairs = list(zip([*ours.warm_up, *ours.turns], [*other.warm_up, *other.turns], strict=True))
    loss = max(abs((mine.loss or 0.0) - (theirs.loss or 0.0)) for mine, theirs in pairs)
    norm = max(abs(1 - (theirs.grad_norm or 0.0) / (mine.grad_norm or 1.0)) for mine, theirs in pairs)
    return {"losses": loss, "gradient norms": norm}


def report(results: list[Result], extras: dict[str, float], facts: dict[str, Any]) -> tuple[Report, bool]:
    """A row a contender, the targets; and whether all have computed the same. `extras`: of ours alone."""
    ours = contenders.find(results, "ours", "update")
    rows, kept, lines, near = [], [], [], []
    for one in results:
        row, content = [one.name, *contenders.cells(one, ours)], contenders.to_dict(one, ours)
        if one.turns:
            compile_s = sum(turn.wall_s for turn in one.warm_up) - len(one.warm_up) * min(one.values("wall_s"))
            first = one.warm_up[0]
            row += [spread(one.values("wall_s")), readable(compile_s), f"{first.loss:.7f}", f"{first.grad_norm:.5f}"]
            content["compile_s"] = round(compile_s, 2)
        if one.turns and ours and one is not ours:
            apart = differences(ours, one)
            told, same = contenders.sameness(f"ours and {one.name}", apart, limit=LARGEST_DIFFERENCE)
            content["largest_loss_difference"], content["largest_grad_norm_difference"] = apart.values()
            lines.append(told)
            near.append(same)
        rows.append(row)
        kept.append(content)
    targets = []
    for name, goal in TARGETS.items():
        other = contenders.find(results, name, "update")
        got = median(times(ours, other)) if ours and other else None
        targets.append(Target(what=f"ours / {name}, real tokens/s", goal=goal, got=got))
    found = Report(
        bench="update", facts=facts, title="update", rows=rows, targets=targets,
        heads=["contender", *contenders.HEADS, "s/update", "compile s", "loss", "grad norm"],
        notes=[*contenders.notes(results), *lines, *_extra_lines(ours, extras)],
        content={"extras": extras, "contenders": kept},
    )  # fmt: skip
    return found, all(near)


def _extra_lines(ours: Result | None, extras: dict[str, float]) -> Iterator[str]:
    if extras and ours:
        share = extras["loss_s"] / min(ours.values("wall_s"))
        yield f"ours: packing takes {1e3 * extras['pack_s']:.1f} ms a batch on the host, beside the update"
        yield f"ours: the objective with its gradient takes {1e3 * extras['loss_s']:.2f} ms, {share:.2%} of an update"


def _plans(options: argparse.Namespace) -> list[Plan]:
    """Every contender that was asked for, ours first."""
    python = str(peers.peers_python(options.peers_env).absolute()) if options.peers_env else ""
    plans = [
        Plan(
            name=name,
            command=(sys.executable if name == "ours" else python, "-m", f"nouscoder_jax.bench.update.{name}"),
            num_threads=options.threads,
            tasks=("update",),
            missing="" if name == "ours" or python else "no environment given; use --peers-env DIR",
            at_the_end="extras" if name == "ours" else "",
        )
        for name in NAMES
    ]
    return [plan for plan in plans if plan.name in chosen("only", options.only, NAMES)]


def _write_workload(folder: Path, options: argparse.Namespace) -> int:
    """Writes the folder that contenders read; returns the batch's real tokens."""
    architecture = workload.QUICK_ARCHITECTURE if options.quick else workload.ARCHITECTURE
    num_sequences = _QUICK_SEQUENCES if options.quick else workload.NUM_SEQUENCES
    batch = workload.make_batch(num_sequences, vocab_size=architecture.vocab_size, seed=0)
    settings = {
        "threads": options.threads,
        "row_tokens": options.row_tokens,
        "rows_per_micro_batch": options.rows,
        "trl_rows": options.trl_rows,
        "num_real_tokens": batch.num_real_tokens,
    }
    workload.write(folder, architecture, batch, settings=settings, seed=0)
    return batch.num_real_tokens


def _sees_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def _check(options: argparse.Namespace) -> None:
    if options.quick:
        options.rounds = 1
    check_numbers(options, "rounds", "threads", "row_tokens", "rows", "trl_rows")
    check_outputs(options)
    chosen("only", options.only, NAMES)
    if options.row_tokens < workload.LONGEST_TOKENS:
        raise UserError(f"--row-tokens is {options.row_tokens}; use {workload.LONGEST_TOKENS} or more")
