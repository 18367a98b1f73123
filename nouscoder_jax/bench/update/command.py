"""How fast `update` is, beside TRL's and google-tunix's, in one run: `python scripts/bench.py update --peers-env DIR`.

In: options. Out: a table, whether all compute the same loss, the targets, a JSON file and a picture where asked for.

Every contender is a process of its own with the same weights, batch, optimizer and threads, and takes one optimizer
step when it is its turn; the others wait. Turns rotate over several rounds, so that the machine's noise hits all alike.
The first steps of each compile and warm up; they count for nothing but the comparison of losses. On a machine whose
GPU jax sees, the bench is `gpu`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.update import peers, table, workload
from nouscoder_jax.bench.update.peers import Contender, ContenderError
from nouscoder_jax.bench.update.table import Result
from nouscoder_jax.config import UserError

_NOISY_LOAD = 0.5
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every round as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (.png); CPU only")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where contenders did not compute the same loss. Raises UserError."""
    _check(options)
    console = machine.console(width_chars=160)
    if options.gpu or (not options.cpu and _sees_gpu()):
        from nouscoder_jax.bench.update import gpu

        return gpu.measure(console, quick=options.quick, out=options.out)
    facts = machine.describe(("jax", "flax"))
    names = [name for name in peers.MODULES if name in _only(options)]
    with tempfile.TemporaryDirectory(prefix="bench-update-") as folder:
        num_real_tokens = _write_workload(Path(folder), options)
        pythons = _pythons(options.peers_env)
        with cores(options.threads):
            results, extras = measure_all(
                names, pythons, Path(folder), rounds=options.rounds, num_threads=options.threads,
                num_real_tokens=num_real_tokens,
            )  # fmt: skip
    facts["load_after"] = round(os.getloadavg()[0], 2)
    return _report(results, extras, facts, options, console)


def measure_all(
    names: list[str], pythons: dict[str, str], folder: Path, *, rounds: int, num_threads: int, num_real_tokens: int
) -> tuple[list[Result], dict[str, float]]:
    """Every contender's turns, and what only ours measures. A contender that fails is skipped with the reason."""
    results = [Result(name=name, num_real_tokens=num_real_tokens) for name in names]
    extras: dict[str, float] = {}
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for result in results:
            if not pythons[result.name]:
                result.skipped = "no environment given; use --peers-env DIR"
                continue
            command = [pythons[result.name], "-m", peers.MODULES[result.name]]
            contender = Contender(result.name, command, folder, num_threads=num_threads)
            contenders[result.name] = stack.enter_context(contender)
        for number in range(-_WARM_UP, rounds):
            turn = number % len(results)
            for result in results[turn:] + results[:turn]:
                if not result.skipped:
                    _turn(contenders[result.name], result, number=number)
        if results[0].name == "ours" and not results[0].skipped:
            extras = contenders["ours"].extras()
    return results, extras


def _turn(contender: Contender, result: Result, *, number: int) -> None:
    """One step, in round `number`; before round 0 it warms up."""
    try:
        if number == -_WARM_UP:
            contender.wait_ready()
            result.facts = contender.facts
        turn = contender.update()
        (result.turns if number >= 0 else result.warm_up).append(turn)
        told = f"round {number + 1}" if number >= 0 else "warming up"
        print(f"{told}: {result.name} took {turn.wall_s:.2f} s, {turn.cpu_s:.2f} CPU s", file=sys.stderr, flush=True)
    except ContenderError as error:
        result.skipped, result.turns, result.warm_up = str(error), [], []


def _report(
    results: list[Result], extras: dict[str, float], facts: dict[str, Any], options: argparse.Namespace,
    console: Console,
) -> int:  # fmt: skip
    console.print(table.results_table(results))
    for result in results:
        if result.skipped:
            console.print(f"skipped: {result.name}: {result.skipped}", markup=False)
        else:
            console.print(f"{result.name}: {json.dumps(result.facts)}", markup=False)
    lines, same = table.sameness(results)
    for line in [*lines, *_extra_lines(results[0], extras), *_target_lines(results)]:
        console.print(line, markup=False)
    sizes = f"{results[0].num_real_tokens:,} real tokens, {options.threads} threads, {options.rounds} rounds"
    console.print(f"{sizes}; median (lowest..highest). `compile s`: not counted.")
    console.print(f"{facts['date']}, commit {facts['commit']}, {facts['hardware']}, {facts['versions']}", markup=False)
    if facts["load_before"] > _NOISY_LOAD:
        console.print(f"NOISY: the load was {facts['load_before']} before the start; trust ratios and CPU time only")
    if options.out:
        settings = {name: getattr(options, name) for name in ("rounds", "threads", "row_tokens", "rows", "quick")}
        content = {"bench": "update", **facts, "settings": settings, "extras": extras}
        content |= table.to_dict(results)
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        table.plot(options.plot, results, title=f"update: {sizes}; {facts['commit']}, {facts['date']}")
    return 0 if same else 1


def _extra_lines(ours: Result, extras: dict[str, float]) -> Iterator[str]:
    if extras and ours.turns:
        wall_s = min(turn.wall_s for turn in ours.turns)
        yield f"ours: packing takes {1e3 * extras['pack_s']:.1f} ms a batch on the host, beside the update"
        share = extras["loss_s"] / wall_s
        yield f"ours: the objective with its gradient takes {1e3 * extras['loss_s']:.2f} ms, {share:.2%} of an update"


def _target_lines(results: list[Result]) -> Iterator[str]:
    for target in table.targets(results):
        told = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
        yield f"target: {target['what']} >= {target['goal']}: {target['got'] or ''} {told}"


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
    }
    workload.write(folder, architecture, batch, settings=settings, seed=0)
    return batch.num_real_tokens


def _pythons(peers_env: Path | None) -> dict[str, str]:
    """The Python of each contender; empty: none."""
    python = str(peers.peers_python(peers_env).absolute()) if peers_env else ""
    return {name: sys.executable if name == "ours" else python for name in peers.MODULES}


@contextmanager
def cores(num_cores: int) -> Iterator[None]:
    """Processes started inside may use the first `num_cores` cores; XLA makes as many threads."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _sees_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def _only(options: argparse.Namespace) -> list[str]:
    return [name.strip() for name in options.only.split(",") if name.strip()] or list(peers.MODULES)


def _check(options: argparse.Namespace) -> None:
    if options.quick:
        options.rounds = 1
    for name in ("rounds", "threads", "row_tokens", "rows", "trl_rows"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}; use 1 or more")
    if options.row_tokens < workload.LONGEST_TOKENS:
        raise UserError(f"--row-tokens is {options.row_tokens}; use {workload.LONGEST_TOKENS} or more")
    if unknown := [name for name in _only(options) if name not in peers.MODULES]:
        raise UserError(f"--only got {' '.join(unknown)}; the contenders are {', '.join(peers.MODULES)}")
    for name in ("out", "plot"):
        path = getattr(options, name)
        if path and not path.parent.is_dir():
            raise UserError(f"--{name} got {path}; its folder does not exist, make it first")
