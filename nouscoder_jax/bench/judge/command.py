"""How fast the judge is, beside other ways to judge, in one run: `python scripts/bench.py judge`.

In: options. Out: a table, the targets as met or not met, a JSON file and a picture where asked for.

Every way judges the same programs on the same tests, as many at a time. In each turn it first judges a few programs
that do not count: a pool that made sandboxes ahead of need would look faster than it can be for long.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.judge.cpu_meter import CpuMeter, daemon_processes
from nouscoder_jax.bench.judge.programs import TIME_LIMIT_S, Programs, make_programs
from nouscoder_jax.bench.judge.ways import InProcess, Ours, Way, docker_run, host_process
from nouscoder_jax.bench.options import add_rounds, at_least
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import JudgeError
from nouscoder_jax.verifier import interpreter

RATIO_TO = "LiveCodeBench-style"
"""The way that all others are compared with in the same round."""
SIZES = {"warm": 1_000_000, "reuse=10": 10, "fresh": 1}
"""Rollouts that one sandbox judges."""
TARGETS = (
    ("docker warm", "tests/s", "speed", True, 500.0),
    ("docker warm", "p99 of a test, ms", "p99_ms", False, 10.0),
    ("docker warm", "CPU ms a test", "cpu_ms", False, 3.5),
    ("docker fresh", "rollouts/s", "rollouts_per_s", True, 10.0),
    ("docker reuse=10", "rollouts/s", "rollouts_per_s", True, 20.0),
)
"""Way, what, figure, whether at least or at most, goal."""
_FIGURES = {
    "tests/s": ("speed", 1.0), "CPU ms/test": ("cpu_ms", 1.0), "rollouts/s": ("rollouts_per_s", 1.0),
    "p50 ms": ("p50_ms", 1.0), "p99 ms": ("p99_ms", 1.0),
}  # fmt: skip
_SLOW_PROGRAMS = 2
"""Programs a round for a way that takes minutes for all of them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py judge`."""
    parser.add_argument("--programs", default=50, type=at_least(1), help="programs a way and round (default: 50)")
    parser.add_argument("--tests", default=20, type=at_least(1), help="tests of each program (default: 20)")
    parser.add_argument("--workers", default=2, type=at_least(1), help="programs judged at the same time (default: 2)")
    parser.add_argument("--image", default="nouscoder-judge", help="docker: image with a python3 (default: made here)")
    parser.add_argument("--runtime", default="", help="docker: OCI runtime, such as crun (default: the host's own)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only ways with one of these in their names")
    add_rounds(parser, rounds=5, quick="2 programs, 3 tests")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    if options.quick:
        options.rounds, options.programs, options.tests = 1, 2, 3
    facts = machine.describe(("docker",)) | {"programs_python": interpreter.choose().version}
    programs = make_programs(num_programs=options.programs, num_tests=options.tests)
    meter = CpuMeter(daemon_processes(os.environ.get("DOCKER_HOST", "")))
    with meter, asyncio.Runner() as runner:
        judging = {
            name: Judging(runner, make, programs, num_workers=options.workers, cpu_s=meter.cpu_s)
            for name, make in make_ways(options).items()
            if any(word in name for word in options.only.split(","))
        }
        if not judging:
            raise UserError(f"--only got {options.only!r}; the ways are {', '.join(make_ways(options))}")
        for name in judging.keys() & {"docker run a test"}:
            judging[name].programs = programs[:_SLOW_PROGRAMS]
        contenders = [Contender(name=name, turn=one.turn) for name, one in judging.items()]
        try:
            rounds.take_turns(contenders, rounds=options.rounds)
        finally:
            for one in judging.values():
                one.close()
    found = report(contenders, facts)
    sizes = f"{options.programs} programs x {options.tests} tests, {options.workers} at a time, {options.rounds} rounds"
    found.notes += [
        f"{sizes}; median over rounds (lowest..highest). Baselines are unsafe: for comparison only.",
        f"CPU time counts {meter.how}.",
    ]
    found.finish(options)
    return 0


def make_ways(options: argparse.Namespace) -> dict[str, Callable[[], Way]]:
    """Every way, in the order of the table; made, it says where it does not work on this machine."""
    ways: dict[str, Callable[[], Way]] = {}
    for backend in ("docker", "local"):
        for size, reuse in SIZES.items():
            config = VerifierConfig(
                backend=backend, docker_hosts=(), image=options.image, runtime=options.runtime,
                num_workers=options.workers, rollouts_per_sandbox=reuse, default_time_limit_s=float(TIME_LIMIT_S),
                wall_factor=3.0, memory_limit_mib=4096, output_limit_mib=8, max_processes=64, max_retries=1,
                outage_limit_s=30.0,
            )  # fmt: skip
            ways[f"{backend} {size}"] = functools.partial(Ours, config)
    return ways | {
        RATIO_TO: functools.partial(InProcess, "livecodebench"),
        "host process a test": host_process,
        "docker run a test": functools.partial(docker_run, options.image),
        "floor: fork + program": functools.partial(InProcess, "fork"),
    }


class Judging:
    """One way, and what it judges in a turn."""

    def __init__(
        self, runner: asyncio.Runner, make: Callable[[], Way], programs: Programs, *, num_workers: int,
        cpu_s: Callable[[], float],
    ) -> None:  # fmt: skip
        """`cpu_s`: CPU seconds so far of all that works."""
        self._runner, self._make, self.programs, self._cpu_s = runner, make, programs, cpu_s
        self._num_workers = num_workers
        self._way: Way | None = None

    def turn(self) -> dict[str, float]:
        """Judges all. Raises RuntimeError or UserError where the way does not work."""
        try:
            return self._runner.run(self._judge_all())
        except ExceptionGroup as failed:
            error = failed.exceptions[0]
            raise (RuntimeError(str(error)) if isinstance(error, JudgeError) else error) from error

    def close(self) -> None:
        """Ends what the way has started."""
        if self._way is not None:
            self._runner.run(self._way.close())

    async def _judge_all(self) -> dict[str, float]:
        """The clock runs from the last verdict of the lead-in to the last of all, without a pause between them."""
        way = self._way = self._way or self._make()
        lead_in = (3 * self._num_workers) if isinstance(way, Ours | InProcess) else 0
        workers, test_s = asyncio.Semaphore(self._num_workers), []
        clock = [self._now()]

        async def one(number: int) -> None:
            problem, program = self.programs[number % len(self.programs)]
            async with workers:
                accepted, seconds = await way.judge(problem, program)
            if not accepted:
                raise RuntimeError(f"failed: {problem.problem_id} was not accepted, and it is correct")
            test_s.append(seconds)
            if len(test_s) in (lead_in, lead_in + len(self.programs)):
                clock.append(self._now())

        async with asyncio.TaskGroup() as group:
            for number in range(-lead_in, len(self.programs)):
                group.create_task(one(number))
        (wall, cpu), (wall_end, cpu_end) = clock[-2:]
        times = 1e3 * np.concatenate(test_s[lead_in:])
        return {
            "wall_s": wall_end - wall,
            "cpu_s": cpu_end - cpu,
            "work": float(len(times)),
            "cpu_ms": 1e3 * (cpu_end - cpu) / len(times),
            "rollouts_per_s": len(self.programs) / (wall_end - wall),
            "p50_ms": float(np.quantile(times, 0.5)),
            "p99_ms": float(np.quantile(times, 0.99, method="inverted_cdf")),
        }

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), self._cpu_s()


def report(contenders: list[Contender], facts: dict[str, Any]) -> Report:
    """A row a way, and the targets."""
    parts = rounds.table(contenders, _FIGURES, reference=lambda one: RATIO_TO)
    found = Report(bench="judge", facts=facts, **parts)
    for name, what, figure, at_least_, goal in TARGETS:
        for one in contenders:
            if one.name == name:
                got = one.median(figure)
                found.targets.append(Target(what=f"{name}: {what}", goal=goal, got=got, at_least=at_least_))
    return found
