"""How fast the embedded engine is, beside transformers' `generate` and SGLang's CPU server, in one run:
`python scripts/bench.py generate --sglang-python PYTHON`.

In: options. Out: a table, whether all logprobs are the model's, the targets, a JSON file where asked for.

Every contender is a process of its own with the same random Qwen3 of 5.8 million float32 parameters and the same cores,
and generates when it is its turn; the others wait. Turns rotate over several rounds, so that the machine's noise hits
all alike. All give the logprob of every sampled token. Before the first round each has a turn that counts for nothing.
transformers runs twice, with all threads and with one; the target is judged against the faster. Threads that wait
sleep (OMP_WAIT_POLICY): spinning ones make torch ten times slower where other processes run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from types import TracebackType
from typing import Any

from rich.console import Console

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.generate import table, workload
from nouscoder_jax.bench.generate.table import Result, Turn
from nouscoder_jax.bench.update.command import cores
from nouscoder_jax.bench.update.peers import Contender, ContenderError
from nouscoder_jax.config import UserError

_NOISY_LOAD = 0.5
_WARM_UP = 1
_ENDING_S = 30.0
_MODULE = "nouscoder_jax.bench.generate."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One contender: how it is started and what it is asked.

    Example:
        Plan(name="ours", command=(sys.executable, "-m", "nouscoder_jax.bench.generate.ours"), num_threads=2,
             tasks=("uniform", "long_tailed"), missing="")
    """

    name: str
    command: tuple[str, ...]
    num_threads: int
    tasks: tuple[str, ...]
    missing: str
    """Why it cannot run; empty: it can."""


class Generator(Contender):
    """A contender that generates."""

    def generate(self, task: str) -> Turn:
        """One turn. Raises ContenderError."""
        return Turn(**self._ask(task))

    def check(self) -> dict[str, float]:
        """Contender -> the largest difference of its logprobs from the model's. Raises ContenderError."""
        return self._ask("check")

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.close()  # a contender that has started a server stops it when its input ends
            self._process.wait(_ENDING_S)
        except (BrokenPipeError, TimeoutExpired):
            pass
        self._process.stdin = None  # closed: nothing more to send
        super().__exit__(*error)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py generate`."""
    parser.add_argument("--peers-env", default=sys.executable, metavar="PYTHON", help="Python with torch, transformers")
    parser.add_argument(
        "--sglang-python",
        default=os.environ.get("NOUSCODER_SGLANG_PYTHON", ""),
        metavar="PYTHON",
        help="Python with SGLang (default: NOUSCODER_SGLANG_PYTHON; empty: left out)",
    )
    parser.add_argument("--rounds", default=3, type=int, help="turns of each contender (default: 3)")
    parser.add_argument("--threads", default=2, type=int, help="cores and threads of each (default: 2)")
    parser.add_argument("--only", default="", metavar="NAMES", help="contenders, with commas between (default: all)")
    parser.add_argument("--quick", action="store_true", help="1 round, a tiny model, few tokens: does it work?")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every round as JSON")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where logprobs are not the model's. Raises UserError."""
    plans = _check(options)
    console = machine.console(width_chars=140)
    facts = machine.describe(("jax", "flax"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder, cores(options.threads):
        workload.write(Path(folder), quick=options.quick)
        results, differences = measure_all(plans, Path(folder), rounds=options.rounds)
    facts["load_after"] = round(os.getloadavg()[0], 2)
    return _report(results, differences, facts, options, console)


def measure_all(plans: list[Plan], folder: Path, *, rounds: int) -> tuple[list[Result], dict[str, float]]:
    """Every contender's turns, and how far everyone's logprobs are from the model's. One that fails is skipped."""
    results = {plan.name: [Result(name=plan.name, task=task, skipped=plan.missing) for task in plan.tasks]
               for plan in plans}  # fmt: skip
    differences: dict[str, float] = {}
    with ExitStack() as stack:
        running = {}
        for plan in plans:
            if not plan.missing:
                generator = Generator(plan.name, list(plan.command), folder, num_threads=plan.num_threads)
                running[plan.name] = stack.enter_context(generator)
        for number in range(-_WARM_UP, rounds):
            turn = number % len(plans)
            for plan in plans[turn:] + plans[:turn]:
                _in_turn(running.get(plan.name), results[plan.name], number=number)
        for name, generator in running.items():
            if name.startswith("transformers") and not results[name][0].skipped:
                differences = generator.check()
                break
    return [result for each in results.values() for result in each], differences


def _in_turn(generator: Generator | None, results: list[Result], *, number: int) -> None:
    """Every task of one contender in round `number`; before round 0 it warms up."""
    if generator is None or results[0].skipped:
        return
    try:
        if number == -_WARM_UP:
            generator.wait_ready()
        for result in results:
            result.facts = generator.facts
            turn = generator.generate(result.task)
            (result.turns if number >= 0 else result.warm_up).append(turn)
            told = f"round {number + 1}" if number >= 0 else "warming up"
            speed = f"{turn.tokens_per_s:,.0f} tokens/s, {turn.cpu_us_per_token:,.0f} CPU us/token"
            print(f"{told}: {result.name}, {result.task}: {speed}", file=sys.stderr, flush=True)
    except ContenderError as error:
        for result in results:
            result.skipped, result.turns, result.warm_up = str(error), [], []


def _report(
    results: list[Result], differences: dict[str, float], facts: dict[str, Any], options: argparse.Namespace,
    console: Console,
) -> int:  # fmt: skip
    console.print(table.results_table(results))
    for name in dict.fromkeys(result.name for result in results):
        first = next(result for result in results if result.name == name)
        told = f"skipped: {name}: {first.skipped}" if first.skipped else f"{name}: {json.dumps(first.facts)}"
        console.print(told, markup=False)
    lines, same = table.sameness(differences)
    for line in [*lines, *table.target_lines(table.targets(results))]:
        console.print(line, markup=False)
    console.print(f"{options.threads} threads, {options.rounds} rounds; median (lowest..highest).")
    console.print(f"{facts['date']}, commit {facts['commit']}, {facts['hardware']}, {facts['versions']}", markup=False)
    if facts["load_before"] > _NOISY_LOAD:
        console.print(f"NOISY: the load was {facts['load_before']} before the start; trust ratios and CPU time only")
    if options.out:
        settings = {name: getattr(options, name) for name in ("rounds", "threads", "quick")}
        content = {"bench": "generate", **facts, "settings": settings}
        content |= table.to_dict(results, differences)
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


def plans_of(*, peers: str, sglang: str, num_threads: int) -> list[Plan]:
    """Every contender, ours first."""
    peer = (peers, "-m", f"{_MODULE}transformers")
    tasks = ("uniform",)
    missing = "" if sglang else "no Python with SGLang given; use --sglang-python PYTHON"
    return [
        Plan(
            name="ours",
            command=(sys.executable, "-m", f"{_MODULE}ours"),
            num_threads=num_threads,
            tasks=("uniform", "long_tailed"),
            missing="",
        ),
        Plan(name="transformers", command=(*peer, "transformers"), num_threads=num_threads, tasks=tasks, missing=""),
        Plan(
            name="transformers-1-thread",
            command=(*peer, "transformers-1-thread"),
            num_threads=1,
            tasks=tasks,
            missing="",
        ),
        Plan(
            name="sglang",
            command=(sys.executable, "-m", f"{_MODULE}sglang", sglang),
            num_threads=num_threads,
            tasks=tasks,
            missing=missing,
        ),
    ]


def _check(options: argparse.Namespace) -> list[Plan]:
    if options.quick:
        options.rounds = 1
    for name in ("rounds", "threads"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; use 1 or more")
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"--out got {options.out}; its folder does not exist, make it first")
    plans = plans_of(peers=options.peers_env, sglang=options.sglang_python, num_threads=options.threads)
    wanted = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in [plan.name for plan in plans]]:
        names = ", ".join(plan.name for plan in plans)
        raise UserError(f"--only got {' '.join(unknown)}; the contenders are {names}")
    return [plan for plan in plans if not wanted or plan.name in wanted]
