"""How fast the judge is, beside other ways to judge, in one run: `python scripts/bench.py judge`.

In: options. Out: a table, the targets as met or not met, a JSON file and a picture where asked for.

Every mode judges the same programs on the same tests, as many at a time. Modes take turns over several rounds, so that
the machine's noise hits all alike, and the order moves on by one each round. In each round a mode first judges a few
programs that do not count: a pool that made sandboxes ahead of need would look faster than it can be for long.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time

from rich.console import Console
from rich.progress import Progress

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.cpu import CpuMeter, engine_processes, machine_cpu_s
from nouscoder_jax.bench.judge import modes, table
from nouscoder_jax.bench.judge.modes import Mode
from nouscoder_jax.bench.judge.programs import Contender, Judged, make_programs
from nouscoder_jax.bench.judge.table import ModeResult, Round
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, listed
from nouscoder_jax.bench.results import plot_spreads, rotated
from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError, Problem
from nouscoder_jax.verifier import interpreter

Programs = list[tuple[Problem, str]]
_SETTLE_S = 0.4
"""Between two modes: the engine still removes containers of the one before."""
_NOISY_SHARE = 0.05


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py judge`."""
    parser.add_argument("--rounds", default=5, type=int, help="times each mode has its turn (default: 5)")
    parser.add_argument("--programs", default=50, type=int, help="programs a mode and round (default: 50)")
    parser.add_argument("--tests", default=20, type=int, help="tests of each program (default: 20)")
    parser.add_argument("--workers", default=2, type=int, help="programs judged at the same time (default: 2)")
    parser.add_argument("--image", default="nouscoder-judge", help="docker: image with a python3 (default: made here)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only modes with one of these in their names")
    parser.add_argument("--floor", action="store_true", help="also fork + program in a bare Python: what nothing beats")
    parser.add_argument("--quick", action="store_true", help="1 round, 2 programs, 3 tests: does it work?")
    add_outputs(parser, plot=True)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    if options.quick:
        options.rounds, options.programs, options.tests = 1, 2, 3
    check_numbers(options, "rounds", "programs", "tests", "workers")
    check_outputs(options)
    console = machine.console(width_chars=160)
    facts = machine.describe(("docker",)) | {"engine": modes.engine_facts()}
    facts["programs_python"] = interpreter.choose().version
    offered = modes.make_modes(
        image=options.image, num_workers=options.workers, num_programs=options.programs, floor=options.floor
    )
    words = listed(options.only)
    chosen = [mode for mode in offered if not words or any(word in mode.name for word in words)]
    if not chosen:
        raise UserError(f"--only got {options.only!r}; the modes are {', '.join(mode.name for mode in offered)}")
    programs = make_programs(num_programs=options.programs, num_tests=options.tests)
    with CpuMeter(engine_processes(os.environ.get("DOCKER_HOST", ""))) as meter:
        results = asyncio.run(_measure_all(chosen, programs, options, meter, console))
    facts |= {"cpu_counted": meter.how, "load_after": round(os.getloadavg()[0], 2)}
    _report(results, facts, options, console)
    return 0


async def _measure_all(
    chosen: list[Mode], programs: Programs, options: argparse.Namespace, meter: CpuMeter, console: Console
) -> list[ModeResult]:
    results = {mode.name: ModeResult(name=mode.name, kind=mode.kind, num_programs=mode.num_programs) for mode in chosen}
    contenders: dict[str, Contender] = {}
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task("getting ready", total=len(chosen) * (options.rounds + 1))
            # Round 0 makes the sandboxes and is not counted.
            for number in range(options.rounds + 1):
                for mode in rotated(chosen, number):
                    progress.update(bar, description=f"round {number} of {options.rounds}: {mode.name}", advance=1)
                    result = results[mode.name]
                    if not result.skipped:
                        await _turn(mode, result, contenders, programs, options.workers, meter, counts=number > 0)
                        await asyncio.sleep(0 if options.quick else _SETTLE_S)
    finally:
        await asyncio.gather(*(contender.close() for contender in contenders.values()))
    return list(results.values())


async def _turn(
    mode: Mode, result: ModeResult, contenders: dict[str, Contender], programs: Programs, num_workers: int,
    meter: CpuMeter, *, counts: bool,
) -> None:  # fmt: skip
    """One mode in one round; what stops it from working is noted, and it has no further turn."""
    try:
        if not counts:
            contenders[mode.name] = mode.make()
        chosen = programs[: mode.num_programs] if counts else []
        lead_in = [programs[number % len(programs)] for number in range(mode.lead_in)]
        if measured := await _measure(contenders[mode.name], lead_in, chosen, num_workers, meter):
            result.rounds.append(measured)
    except (UserError, JudgeError, EOFError, RuntimeError) as error:
        result.skipped, result.rounds = " ".join(str(error).split()), []


async def _measure(
    contender: Contender, lead_in: Programs, programs: Programs, num_workers: int, meter: CpuMeter
) -> Round | None:
    """Judges all; the clock runs from the last verdict of the lead-in to the last of all. None: nothing to measure."""
    workers = asyncio.Semaphore(num_workers)
    clock = _Clock(meter, num_uncounted=len(lead_in))

    async def one(problem: Problem, program: str) -> None:
        async with workers:
            judged = await contender.judge(problem, program)
        if not judged.accepted:
            raise RuntimeError(f"failed: {problem.problem_id} was not accepted, and it is correct")
        clock.tick(judged)

    pending = [asyncio.ensure_future(one(problem, program)) for problem, program in lead_in + programs]
    try:
        await asyncio.gather(*pending)
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return clock.round() if programs else None


class _Clock:
    """Takes the time between verdicts; the first `num_uncounted` are not part of it."""

    def __init__(self, meter: CpuMeter, *, num_uncounted: int) -> None:
        self._meter = meter
        self._left = num_uncounted
        self._test_s: list[float] = []
        self._num_rollouts = 0
        self._start = self._last = self._now()

    def tick(self, judged: Judged) -> None:
        """A verdict is there."""
        self._last = self._now()
        if self._left > 0:
            self._left -= 1
            self._start = self._last
            return
        self._num_rollouts += 1
        self._test_s += judged.test_s

    def round(self) -> Round:
        """What was measured."""
        wall_s, cpu_s, machine_s = (last - first for first, last in zip(self._start, self._last, strict=True))
        num_tests = len(self._test_s)
        ordered = sorted(self._test_s)
        others = (machine_s - cpu_s) / (wall_s * (os.cpu_count() or 1))
        return Round(
            tests_per_s=num_tests / wall_s,
            rollouts_per_s=self._num_rollouts / wall_s,
            p50_ms=1e3 * _quantile(ordered, 0.5),
            p99_ms=1e3 * _quantile(ordered, 0.99),
            cpu_ms_per_test=1e3 * cpu_s / num_tests,
            others_share=min(max(others, 0.0), 1.0),
        )

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._meter.cpu_s(), machine_cpu_s()


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def _report(results: list[ModeResult], facts: dict[str, object], options: argparse.Namespace, console: Console) -> None:
    found = table.report(results, facts, ratio_to=modes.RATIO_TO)
    sizes = f"{options.programs} programs x {options.tests} tests, {options.workers} at a time, {options.rounds} rounds"
    found.notes += [
        f"{sizes}; median over rounds (lowest..highest). Baselines are unsafe: for comparison only.",
        f"local programs and baselines run on Python {facts['programs_python']}",
        f"engine: {facts['engine']}; CPU time counts {facts['cpu_counted']}",
    ]
    others = max((max(result.values("others_share")) for result in results if result.rounds), default=0.0)
    if others > _NOISY_SHARE:
        told = f"NOISY: other work took up to {others:.0%} of this machine; only CPU ms/test means something"
        found.notes.append(told)
    names = ("rounds", "programs", "tests", "workers", "image")
    found.content["settings"] = {name: getattr(options, name) for name in names}
    found.show(console)
    found.write(options.out)
    shown = [result for result in results if result.rounds]
    if options.plot and shown:
        figures = {"tests/s": "tests_per_s", "CPU ms a test": "cpu_ms_per_test"}
        panels = {label: {one.name: one.values(name) for one in shown} for label, name in figures.items()}
        title = f"{sizes}; {facts['commit']}, {facts['date']}"
        plot_spreads(options.plot, panels, title=title, colors={one.name: table.COLORS[one.kind] for one in shown})
