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
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import contenders, machine
from nouscoder_jax.bench.contenders import Plan, Result, find, times, times_by_cpu
from nouscoder_jax.bench.cpu import cores
from nouscoder_jax.bench.generate import workload
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, chosen
from nouscoder_jax.bench.results import Report, Target, median

GOAL_TIMES = 2.0
"""Ours / the fastest of transformers' contenders, tokens/s."""
GOAL_REFILL = 0.8
"""Ours: long-tailed lengths with refill / uniform lengths, tokens/s."""
LARGEST_DIFFERENCE = 1e-3
"""Of a logprob, nats; above it a contender does not compute what the model says."""
_WARM_UP = 1


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
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where logprobs are not the model's. Raises UserError."""
    plans = _check(options)
    facts = machine.describe(("jax", "flax"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder, cores(options.threads):
        workload.write(Path(folder), quick=options.quick)
        results, said = contenders.measure_all(plans, Path(folder), rounds=options.rounds, warm_up=_WARM_UP)
    facts["load_after"] = round(os.getloadavg()[0], 2)
    found, same = report(results, said.get("check", {}), facts)
    found.notes.append(f"{options.threads} threads, {options.rounds} rounds; median (lowest..highest).")
    found.content["settings"] = {name: getattr(options, name) for name in ("rounds", "threads", "quick")}
    found.show(machine.console(width_chars=140))
    found.write(options.out)
    return 0 if same else 1


def report(results: list[Result], differences: dict[str, float], facts: dict[str, Any]) -> tuple[Report, bool]:
    """A row a contender and task, the targets; and whether all logprobs are near a forward pass of transformers.
    `differences`: the largest of each contender's."""
    ours = find(results, "ours", "uniform")
    checked = [
        contenders.sameness(name, {"logprobs from a forward pass over its tokens": value}, limit=LARGEST_DIFFERENCE)
        for name, value in differences.items()
    ]
    found = Report(
        bench="generate", facts=facts, title="generate", num_labels=2,
        heads=["contender", "lengths", *contenders.HEADS],
        rows=[[one.name, one.task, *contenders.cells(one, ours)] for one in results],
        notes=[*contenders.notes(results), *(line for line, _ in checked)], targets=targets(results),
        content={
            "contenders": [contenders.to_dict(one, ours) for one in results], "logprob_differences": differences
        },
    )  # fmt: skip
    return found, all(near for _, near in checked)


def targets(results: list[Result]) -> list[Target]:
    """Each with what was got in the middle round, by wall time and by CPU."""
    ours, tailed = find(results, "ours", "uniform"), find(results, "ours", "long_tailed")
    peers = [one for one in results if one.name.startswith("transformers") and one.turns]
    got = by_cpu = refill = refill_by_cpu = None
    if ours and peers:
        fastest = max(peers, key=lambda peer: median(peer.values("tokens_per_s")) or 0.0)
        cheapest = min(peers, key=lambda peer: median(peer.values("cpu_us_per_token")) or 0.0)
        got, by_cpu = median(times(ours, fastest)), median(times_by_cpu(ours, cheapest))
    if ours and tailed:
        refill, refill_by_cpu = median(times(tailed, ours)), median(times_by_cpu(tailed, ours))
    refilled = "long-tailed lengths / uniform, tokens/s"
    return [
        Target(what="ours / the fastest of transformers, tokens/s", goal=GOAL_TIMES, got=got, by_cpu=by_cpu),
        Target(what=refilled, goal=GOAL_REFILL, got=refill, by_cpu=refill_by_cpu),
    ]


def plans_of(*, peers: str, sglang: str, num_threads: int) -> list[Plan]:
    """Every contender, ours first. The first of transformers' checks everybody's logprobs at the end."""

    def plan(name: str, python: str, *arguments: str, threads: int = num_threads, **fields: Any) -> Plan:
        command = (python, "-m", f"nouscoder_jax.bench.generate.{arguments[0]}", *arguments[1:])
        return Plan(**{"name": name, "command": command, "num_threads": threads, "tasks": ("uniform",)} | fields)

    missing = "" if sglang else "no Python with SGLang given; use --sglang-python PYTHON"
    one_thread = "transformers-1-thread"
    return [
        plan("ours", sys.executable, "ours", tasks=("uniform", "long_tailed")),
        plan("transformers", peers, "transformers", "transformers", at_the_end="check"),
        plan(one_thread, peers, "transformers", one_thread, threads=1, at_the_end="check"),
        plan("sglang", sys.executable, "sglang", sglang, missing=missing),
    ]


def _check(options: argparse.Namespace) -> list[Plan]:
    if options.quick:
        options.rounds = 1
    check_numbers(options, "rounds", "threads")
    check_outputs(options)
    plans = plans_of(peers=options.peers_env, sglang=options.sglang_python, num_threads=options.threads)
    wanted = chosen("only", options.only, [plan.name for plan in plans])
    return [plan for plan in plans if plan.name in wanted]
