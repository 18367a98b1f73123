"""Runs of `bench.py objectives`: what is planned, what its folder already holds, the child process that trains it.

In: a config, names of objectives, seeds, a folder of runs. Out: a RunResult of each, read from its run folder.

A run of objective X and seed S lives in DIR/X-seed-S; beside it stand X-seed-S.log, what the process printed, and
X-seed-S.sessions.json, on which commit and how many at a time it was trained. A finished run is taken as it is, an
unfinished one goes on from its newest checkpoint: a bench that was interrupted loses nothing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from nouscoder_jax import cli
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.folder import RunFolder
from nouscoder_jax.metrics import names
from nouscoder_jax.metrics.sinks import read_jsonl

UPDATE_METRICS = (names.CLIP_LOW_SHARE, names.CLIP_HIGH_SHARE, names.ENTROPY, names.RATIO_MAX)
"""Kept of every run as the mean over its steps and as the last step's; one that no line has is left out."""

_REASON_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run to make.

    Example:
        Planned(objective="dapo", seed=0, runs_dir=Path("runs/objectives"), config_file=Path("configs/tiny.py"),
                overrides=("--loss.name", "dapo", "--seed", "0"), config=config)
    """

    objective: str
    seed: int
    runs_dir: Path
    config_file: Path
    overrides: tuple[str, ...]
    """Arguments of scripts/train.py besides the config file and the run folder."""
    config: TrainConfig
    """What the config file and the overrides make together."""

    @property
    def name(self) -> str:
        """Of the folder and of the files beside it."""
        return f"{self.objective}-seed-{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Where the run is kept."""
        return RunFolder(path=self.runs_dir / self.name, weights_dir="")

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.runs_dir / f"{self.name}.log"

    @property
    def sessions(self) -> Path:
        """One entry for each time the run was started or resumed: its commit and how many runs went on at a time."""
        return self.runs_dir / f"{self.name}.sessions.json"


@dataclass(kw_only=True)
class RunResult:
    """What came out of one run."""

    objective: str
    seed: int
    error: str = ""
    """Why there is no result, the last lines of the process; empty: there is one."""
    reused: bool = False
    """It was finished before this bench started."""
    pass_at_1_before: float | None = None
    pass_at_1_after: float | None = None
    steps: int = 0
    seconds: float | None = None
    """Of all sessions of the run, both evaluations included."""
    held_out_problems: int = 0
    samples_per_problem: int = 0
    sandbox: str = ""
    solved_share: list[float | None] = field(default_factory=list)
    """Of the training problems of step 1, 2, ..."""
    updates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metric -> its `mean` over the steps and its `last`."""
    sessions: list[dict[str, Any]] = field(default_factory=list)


def plan(
    config_file: Path, *, objectives: list[str], seeds: list[int], num_steps: int | None, runs_dir: Path
) -> list[Planned]:
    """Every run, seed by seed, so that an interrupted bench has all objectives of the first seeds. Raises UserError
    where the config is wrong."""
    base = cli.load_config_file(config_file)
    runs = []
    for seed in seeds:
        for objective in objectives:
            overrides = ("--loss.name", objective, "--seed", str(seed))
            overrides += () if num_steps is None else ("--num-steps", str(num_steps))
            config = cli.apply_overrides(base, overrides)
            runs.append(
                Planned(
                    objective=objective, seed=seed, runs_dir=runs_dir, config_file=config_file, overrides=overrides,
                    config=config,
                )
            )  # fmt: skip
    return runs


def is_finished(planned: Planned) -> bool:
    """Whether the folder holds this very run, done. Raises UserError where it holds a run with another config."""
    path = planned.folder.config
    if not path.exists():
        return False
    try:
        stored = TrainConfig.from_json(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path.parent} holds a run of another version ({error}); give another --runs-dir") from error
    wanted, got = planned.config.flatten(), stored.flatten()
    other = [name for name in wanted if name != "run_dir" and wanted[name] != got[name]]
    if other:
        told = ", ".join(f"{name} {got[name]}, not {wanted[name]}" for name in other[:3])
        raise UserError(f"{path.parent} holds a run with another config ({told}); give another --runs-dir")
    return bool(_summary(planned).get("finished"))


def read_result(planned: Planned, *, reused: bool) -> RunResult:
    """The result of a finished run, from its folder."""
    summary = _summary(planned)
    lines = [line for line in read_jsonl(planned.folder.metrics) if line[names.STEP]]
    updates = {}
    for name in UPDATE_METRICS:
        values = [value for line in lines if (value := line.get(name)) is not None]
        if values:
            updates[name] = {"mean": round(sum(values) / len(values), 5), "last": round(values[-1], 5)}
    kept = ("pass_at_1_before", "pass_at_1_after", "steps", "seconds", "held_out_problems", "samples_per_problem")
    return RunResult(
        objective=planned.objective,
        seed=planned.seed,
        reused=reused,
        **{name: summary[name] for name in kept},
        sandbox=summary["sandbox"],
        solved_share=[_rounded(line.get(names.SOLVED_SHARE)) for line in lines],
        updates=updates,
        sessions=_sessions(planned),
    )


class Child:
    """The process that trains one run: started new, or resumed where its folder holds a checkpoint."""

    def __init__(self, planned: Planned, *, train_script: Path, session: dict[str, Any], core: int | None) -> None:
        """`core`: the only one it may use; None: all. Raises UserError where another process trains this run."""
        self.planned = planned
        planned.runs_dir.mkdir(parents=True, exist_ok=True)
        with planned.log.open("a", encoding="utf-8") as log:
            _lock(log, planned)
            log.truncate(0)
            self.resumed = _has_checkpoint(planned)
            if not self.resumed and planned.folder.config.exists():
                shutil.rmtree(planned.folder.path)  # ended before its first checkpoint: there is nothing to go on from
            before = _sessions(planned) if self.resumed else []
            planned.sessions.write_text(json.dumps([*before, session]) + "\n", encoding="utf-8")
            with _only_core(core):
                self._process = subprocess.Popen(
                    [sys.executable, str(train_script), *self._arguments()],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip

    def _arguments(self) -> list[str]:
        """Of scripts/train.py."""
        folder = str(self.planned.folder.path)
        if self.resumed:
            return ["--resume", folder]
        return ["--config", str(self.planned.config_file), "--run-dir", folder, *self.planned.overrides]

    def step(self) -> int:
        """The last step that is done; 0: the evaluation before training, or nothing yet."""
        try:
            lines = read_jsonl(self.planned.folder.metrics)
        except (OSError, ValueError):  # not there yet, or a line is being written
            return 0
        return int(lines[-1][names.STEP] or 0) if lines else 0

    def result(self) -> RunResult | None:
        """What came out; None: it is still going on."""
        code = self._process.poll()
        if code is None:
            return None
        planned = self.planned
        if code == 0 and planned.folder.config.exists() and is_finished(planned):
            return read_result(planned, reused=False)
        reason = f"exit code {code}: {_last_lines(planned.log)}"
        return RunResult(objective=planned.objective, seed=planned.seed, error=reason, sessions=_sessions(planned))

    def interrupt(self) -> None:
        """Asks it to finish the current update and to write a checkpoint."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Ends it with everything it has started in its session."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()


def _summary(planned: Planned) -> dict[str, Any]:
    path = planned.folder.summary
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _sessions(planned: Planned) -> list[dict[str, Any]]:
    return json.loads(planned.sessions.read_text(encoding="utf-8")) if planned.sessions.exists() else []


def _has_checkpoint(planned: Planned) -> bool:
    folder = planned.folder.checkpoints
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _lock(log: IO[str], planned: Planned) -> None:
    """Held through the open log by whoever writes it, so also by a child that has outlived its bench."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is training {planned.folder.path}; wait for it, or give another --runs-dir"
        ) from error


@contextmanager
def _only_core(core: int | None) -> Iterator[None]:
    """Processes started inside may use this core only; XLA makes as many threads."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-_REASON_LINES:]) or "it printed nothing"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def as_dict(result: RunResult) -> dict[str, Any]:
    """The result for JSON."""
    return dataclasses.asdict(result)
