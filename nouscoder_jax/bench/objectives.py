"""Every objective trains the tiny policy, over several seeds: `python scripts/bench.py objectives`.

In: options. Out: held-out pass@1 before and after training of every objective and seed, as a table, a JSON file, a
picture and a block of the README where asked for.

Each run is `scripts/train.py` in a process of its own, with the config's settings and only the objective and the seed
changed. Runs are kept: the same command again takes finished ones as they are and resumes the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import machine, objectives_report, objectives_runs
from nouscoder_jax.bench.objectives_runs import Child, Planned, RunResult
from nouscoder_jax.bench.readme import replace_block, write_block
from nouscoder_jax.config import LossConfig, UserError

BLOCK = "objectives"
"""Name of the README's block."""

_ROOT = Path(__file__).parents[2]
_TRAIN = _ROOT / "scripts" / "train.py"
_POLL_S = 0.5
_LIVE_S = 30.0


def names() -> list[str]:
    """Every objective that the config knows."""
    return list(typing.get_args(typing.get_type_hints(LossConfig)["name"]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py objectives`."""
    parser.add_argument("--objectives", default=",".join(names()), metavar="NAMES", help="default: all, %(default)s")
    parser.add_argument("--seeds", default="0,1,2", metavar="NUMBERS", help="default: %(default)s")
    parser.add_argument("--config", default=Path("configs/tiny.py"), type=Path, metavar="FILE", help="the experiment")
    parser.add_argument("--num-steps", type=int, metavar="N", help="default: the config's")
    parser.add_argument("--jobs", default=1, type=int, help="runs at a time; above 1 each gets one core (default: 1)")
    parser.add_argument(
        "--runs-dir", default=Path("runs/objectives"), type=Path, metavar="DIR",
        help="where runs are kept and found again (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every run as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (.png)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help=f"write the table into its block `{BLOCK}`")


def run(options: argparse.Namespace) -> int:
    """Trains what is not trained yet and reports. Returns 0, or 1 where a run failed. Raises UserError."""
    objectives, seeds = _check(options)
    planned = objectives_runs.plan(
        options.config, objectives=objectives, seeds=seeds, num_steps=options.num_steps, runs_dir=options.runs_dir
    )
    finished = {one.name for one in planned if objectives_runs.is_finished(one)}
    facts = machine.describe(("jax", "flax", "optax"))
    with _terminated_as_interrupted():
        results = train_all(
            planned, finished, jobs=options.jobs, commit=str(facts["commit"]), train_script=_TRAIN, say=_say
        )
    facts["load_after"] = round(os.getloadavg()[0], 2)
    content = {"bench": "objectives", **facts, "settings": _settings(options, objectives, seeds, planned[0])}
    content["runs"] = [objectives_runs.as_dict(result) for result in results]
    return _report(content, options)


def train_all(
    planned: list[Planned], finished: set[str], *, jobs: int, commit: str, train_script: Path,
    say: Callable[[str], None],
) -> list[RunResult]:  # fmt: skip
    """The result of every planned run, in their order; those named in `finished` are read, the others trained by
    `train_script`, `jobs` at a time. One that fails has the reason in its result. Ctrl-C lets the runs that go on
    write a checkpoint; a second one kills them."""
    queue = _Queue(planned, finished, jobs=jobs, commit=commit, train_script=train_script, say=say)
    told_at = time.monotonic()
    try:
        while queue.waiting or queue.going:
            queue.start()
            time.sleep(_POLL_S)
            queue.collect()
            if queue.going and time.monotonic() - told_at >= _LIVE_S:
                told_at = time.monotonic()
                say(queue.live_line())
    finally:
        queue.end()
    return [queue.results[one.name] for one in planned]


class _Queue:
    """Runs that wait, runs that go on (one a slot), results."""

    def __init__(
        self, planned: list[Planned], finished: set[str], *, jobs: int, commit: str, train_script: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.results: dict[str, RunResult] = {}
        self.waiting = [one for one in planned if one.name not in finished]
        self.going: dict[int, Child] = {}
        self._num_runs, self._train_script, self._say = len(planned), train_script, say
        pinned = jobs > 1 and hasattr(os, "sched_getaffinity")
        self._core_of_slot = sorted(os.sched_getaffinity(0))[:jobs] if pinned else [None] * jobs
        self._session = {"commit": commit, "jobs": jobs, "pinned_to_one_core": pinned}
        for one in planned:
            if one.name in finished:
                self._keep(objectives_runs.read_result(one, reused=True))

    def start(self) -> None:
        """Fills the free slots."""
        for slot, core in enumerate(self._core_of_slot):
            while slot not in self.going and self.waiting:
                one = self.waiting.pop(0)
                try:
                    child = Child(one, train_script=self._train_script, session=self._session, core=core)
                except UserError as error:
                    self._keep(RunResult(objective=one.objective, seed=one.seed, error=str(error)))
                    continue
                self.going[slot] = child
                self._say(f"{one.name}: {'resumed' if child.resumed else 'started'}, its output is in {one.log}")

    def collect(self) -> None:
        """Takes the results of runs that have ended."""
        for slot, child in list(self.going.items()):
            if (result := child.result()) is not None:
                del self.going[slot]
                self._keep(result)

    def live_line(self) -> str:
        """Where the runs that go on are."""
        children = self.going.values()
        return ", ".join(f"{one.planned.name}: step {one.step()}/{one.planned.config.num_steps}" for one in children)

    def end(self) -> None:
        """Has the runs that go on write a checkpoint and waits for it; nothing where none goes on."""
        children = list(self.going.values())
        if children:
            self._say("interrupted: waiting for checkpoints (again: stop at once); the same command goes on from there")
        try:
            for child in children:
                child.interrupt()
            for child in children:
                child.wait()
        finally:
            for child in children:
                child.kill()

    def _keep(self, result: RunResult) -> None:
        self.results[f"{result.objective}-seed-{result.seed}"] = result
        self._say(f"{objectives_report.line(result)} ({len(self.results)} of {self._num_runs} runs)")


def _report(content: dict[str, Any], options: argparse.Namespace) -> int:
    console = machine.console(width_chars=160)
    failed = [one for one in content["runs"] if one["error"]]
    console.print(objectives_report.table(content))
    for one in failed:
        told = f"failed: {one['objective']}, seed {one['seed']}: {one['error']}"
        console.print(told, markup=False, soft_wrap=True)
    console.print(objectives_report.footer(content), markup=False, soft_wrap=True)
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        objectives_report.plot(options.plot, content)
    if options.readme and failed:
        console.print(f"{options.readme} is left as it is: {len(failed)} runs failed", markup=False)
    elif options.readme:
        write_block(options.readme, BLOCK, objectives_report.markdown(content))
    return 1 if failed else 0


def _settings(
    options: argparse.Namespace, objectives: list[str], seeds: list[int], planned: Planned
) -> dict[str, Any]:  # fmt: skip
    """What was asked for, and the config's values that a reader of the table wants to know."""
    config, file = planned.config, options.config.resolve()
    shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else Path(file.name)
    command = f"python scripts/bench.py objectives --config {shown}"
    command += "" if objectives == names() else f" --objectives {','.join(objectives)}"
    command += f" --seeds {','.join(map(str, seeds))}"
    command += "" if options.num_steps is None else f" --num-steps {options.num_steps}"
    return {
        "command": command + ("" if options.jobs == 1 else f" --jobs {options.jobs}"),
        "config": str(shown),
        "objectives": objectives,
        "seeds": seeds,
        "num_steps": config.num_steps,
        "jobs": options.jobs,
        "clip_low": config.loss.clip_low,
        "clip_high": config.loss.clip_high,
        "learning_rate": config.optimizer.learning_rate,
        "updates_per_batch": config.experience.updates_per_batch,
        "temperature": config.evaluation.temperature,
    }


def _check(options: argparse.Namespace) -> tuple[list[str], list[int]]:
    """The objectives and the seeds, each once. Raises UserError."""
    objectives = list(dict.fromkeys(_listed(options.objectives)))
    if unknown := [name for name in objectives if name not in names()]:
        raise UserError(f"--objectives got {' '.join(unknown)}; the objectives are {', '.join(names())}")
    seeds = list(dict.fromkeys(_listed(options.seeds)))
    if wrong := [seed for seed in seeds if not (seed.isascii() and seed.isdigit())]:
        raise UserError(f"--seeds got {' '.join(wrong)}; use whole numbers from 0 on, such as 0,1,2")
    for name, values in (("objectives", objectives), ("seeds", seeds)):
        if not values:
            raise UserError(f"--{name} is empty; give at least one, or leave the option out")
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= options.jobs <= num_cores:
        raise UserError(f"--jobs is {options.jobs}; use 1 to {num_cores}, the cores here")
    if options.num_steps is not None and options.num_steps < 1:
        raise UserError(f"--num-steps is {options.num_steps}; use 1 or more")
    _check_paths(options)
    return objectives, list(dict.fromkeys(int(seed) for seed in seeds))


def _check_paths(options: argparse.Namespace) -> None:
    """Before hours of training, not after. Raises UserError."""
    for name in ("out", "plot"):
        path = getattr(options, name)
        if path and not path.parent.is_dir():
            raise UserError(f"--{name} got {path}; its folder does not exist, make it first")
        if path and path.is_dir():
            raise UserError(f"--{name} got {path}, a folder; give a file")
    if options.runs_dir.exists() and not options.runs_dir.is_dir():
        raise UserError(f"--runs-dir got {options.runs_dir}, a file; give a folder")
    if options.readme:
        if not options.readme.is_file():
            raise UserError(f"--readme got {options.readme}; there is no such file")
        try:
            replace_block(options.readme.read_text(encoding="utf-8"), BLOCK, "")
        except UserError as error:
            raise UserError(f"--readme got {options.readme}: {error}") from error


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C, so that no run outlives the bench."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
