"""How fast the embedded engine is, beside transformers' `generate` and SGLang's CPU server, in one run:
`python scripts/bench.py generate --sglang-python PYTHON`.

In: options. Out: a table, whether all logprobs are the model's, the targets, a JSON file where asked for.

Every contender is a process of its own with the same random Qwen3 of 5.8 million float32 parameters and the same cores.
All give the logprob of every sampled token. transformers runs twice, with all threads and with one; the target is
judged against the faster. Threads that wait sleep (OMP_WAIT_POLICY): spinning ones make torch ten times slower where
other processes run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import machine, peers, rounds
from nouscoder_jax.bench.cpu import cores
from nouscoder_jax.bench.generate import workload
from nouscoder_jax.bench.options import add_rounds, at_least
from nouscoder_jax.bench.peers import Plan
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender

GOAL_TIMES = 2.0
"""Ours / the fastest of transformers' contenders, tokens/s."""
GOAL_REFILL = 0.8
"""Ours: long-tailed lengths with refill / uniform lengths, tokens/s."""
LARGEST_DIFFERENCE = 1e-3
"""Of a logprob, nats; above it a contender does not compute what the model says."""
NAMES = ("ours", "transformers", "transformers-1-thread", "sglang")
_OURS = "ours uniform"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py generate`."""
    given = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
    told = "Python with SGLang (default: NOUSCODER_SGLANG_PYTHON; empty: left out)"
    parser.add_argument("--sglang-python", default=given, metavar="PYTHON", help=told)
    parser.add_argument("--peers-env", default=sys.executable, metavar="PYTHON", help="Python with torch, transformers")
    parser.add_argument("--threads", default=2, type=at_least(1), help="cores and threads of each (default: 2)")
    add_rounds(parser, rounds=3, quick="a tiny model, few tokens", names=NAMES)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0, or 1 where logprobs are not the model's. Raises UserError."""
    facts = machine.describe(("jax", "flax"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory(prefix="bench-generate-") as folder, cores(options.threads):
        workload.write(Path(folder), quick=options.quick)
        with peers.started(make_plans(options), Path(folder)) as (contenders, ask):
            rounds.take_turns(contenders, rounds=1 if options.quick else options.rounds)
            checkers = [name for name in NAMES[1:3] if rounds.find(contenders, f"{name} uniform")]
            differences = ask(checkers[0], "check") if checkers else {}
    found = report(contenders, differences, facts)
    found.finish(options)
    return 0 if all(value <= LARGEST_DIFFERENCE for value in differences.values()) else 1


def make_plans(options: argparse.Namespace) -> list[Plan]:
    """Every contender that was asked for."""
    missing = "" if options.sglang_python else "no Python with SGLang given; use --sglang-python PYTHON"
    package = "nouscoder_jax.bench.generate"
    transformers = (options.peers_env, "-m", f"{package}.transformers")
    plans = [
        Plan(name="ours", command=(sys.executable, "-m", f"{package}.ours"), num_threads=options.threads,
             tasks=workload.TASKS),
        Plan(name=NAMES[1], command=(*transformers, NAMES[1]), num_threads=options.threads, tasks=("uniform",)),
        Plan(name=NAMES[2], command=(*transformers, NAMES[2]), num_threads=1, tasks=("uniform",)),
        Plan(name="sglang", command=(sys.executable, "-m", f"{package}.sglang", options.sglang_python),
             num_threads=options.threads, tasks=("uniform",), missing=missing),
    ]  # fmt: skip
    return [plan for plan in plans if plan.name in options.only]


def report(contenders: list[Contender], differences: dict[str, float], facts: dict[str, Any]) -> Report:
    """A row a contender and task, the targets. `differences`: the largest of each contender's logprobs from a forward
    pass of transformers over its tokens."""
    parts = rounds.table(
        contenders, peers.FIGURES, reference=lambda one: _OURS, ratio_of=("speed", "cpu_s_per_work")
    )  # fmt: skip
    found = Report(bench="generate", facts=facts, **parts, targets=targets(contenders))
    found.content["logprob_differences"] = differences
    for name, value in differences.items():
        told = "same" if value <= LARGEST_DIFFERENCE else "NOT THE SAME"
        found.notes.append(f"{told}: {name}: logprobs differ from a forward pass by at most {value:.1e}")
    return found


def targets(contenders: list[Contender]) -> list[Target]:
    """Each with what was got in the middle round."""
    ours, tailed = rounds.find(contenders, _OURS), rounds.find(contenders, "ours long_tailed")
    peers_ = [one for one in contenders if one.name.startswith("transformers") and one.rounds]
    fastest = max(peers_, key=lambda one: one.median("speed") or 0.0, default=None)
    refill = rounds.ratio(tailed, ours)
    return [
        Target(what="ours / the fastest of transformers, tokens/s", goal=GOAL_TIMES, got=rounds.ratio(ours, fastest)),
        Target(what="long-tailed lengths / uniform, tokens/s", goal=GOAL_REFILL, got=refill),
    ]
