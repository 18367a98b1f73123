"""Run folders as tables: metrics by step, rollouts one after another, and what became of them.

In: folders that runs have written or are writing: a last line may be torn, a file may go. Out: Run; lines of metrics
and of rollouts; where every rollout went, by the run's own counts and by its records.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.metrics import names
from nouscoder_jax.run_folder import RunFolder

HELD_OUT = "held out"
"""What became of a held-out sample."""
FATES = ("trained", *(f"filtered/{reason}" for reason in names.FILTER_REASONS), "quarantined")
"""What becomes of a training rollout that was handed over."""

Line = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder and its name on the page.

    Example:
        Run(name="tiny-1", folder=RunFolder(path=Path("runs/tiny-1")), config={"name": "tiny", ...})
    """

    name: str
    folder: RunFolder
    config: Mapping[str, Any]
    """config.json, of whatever version."""

    def setting(self, dotted: str) -> Any:
        """A field of the config, such as `data.problems`; None where it has none."""
        value: Any = self.config
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


@dataclass(slots=True)
class Counted:
    """Rollouts and their tokens, by what became of them.

    Example:
        Counted(rollouts=Counter(trained=128), tokens=Counter(trained=6955))
    """

    rollouts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def add(self, fate: str, num_tokens: int) -> None:
        """Counts one rollout."""
        self.rollouts[fate] += 1
        self.tokens[fate] += num_tokens

    def mean(self, fate: str) -> float | None:
        """Mean length, tokens; None where there is no such rollout."""
        return self.tokens[fate] / self.rollouts[fate] if self.rollouts[fate] else None


def open_runs(folders: Sequence[str]) -> list[Run]:
    """The runs in their order, named after their folders. Raises UserError: no run folder, or two of one name."""
    runs: list[Run] = []
    for given in folders:
        run = _open(given)
        same = next((other for other in runs if other.name == run.name), None)
        if same is not None:
            raise UserError(
                f"two runs are named {run.name!r}: {same.folder.path} and {run.folder.path}; name one otherwise: "
                f"NAME={given}"
            )
        runs.append(run)
    return runs


def _open(given: str) -> Run:
    name, equals, rest = given.partition("=")
    named = bool(equals and name and "/" not in name and not Path(given).exists())
    path = Path(rest if named else given).expanduser().resolve()
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {what}; give the folder that a run has written (scripts/train.py --run-dir)")
    folder = RunFolder(path=path)
    try:
        config = json.loads(folder.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} holds no run ({folder.config.name}: {error.strerror}); give the folder that a run has written"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{folder.config} is no JSON ({error}); give the folder of a run as the run has left it"
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"{folder.config} holds {type(config).__name__}, expected an object; give a run's own folder")
    return Run(name=name if named else path.name, folder=folder, config=config)


def read_metrics(run: Run) -> list[Line]:
    """A line a step, in the order of steps; of a step written twice the last, torn lines left out."""
    by_step = {}
    try:
        for line in _json_lines(run.folder.metrics):
            if isinstance(line, dict) and isinstance(line.get(names.STEP), int | float):
                by_step[int(line[names.STEP])] = line
    except OSError:  # not written yet, or gone
        return []
    return [by_step[step] for step in sorted(by_step)]


def files_of(run: Run) -> list[tuple[bool, int, Path]]:
    """The files of rollouts: whether they are held-out samples, the step, the path; in the order of steps."""
    folder = run.folder
    held_out = [(step, 0, folder.held_out_of(step)) for step in folder.held_out_steps()]
    training = [(step, 1, folder.rollouts_of(step)) for step in folder.rollout_steps()]
    return [(not is_training, step, path) for step, is_training, path in sorted([*held_out, *training])]


def read_rollouts(path: Path) -> Iterator[Line | None]:
    """The lines of a file of rollouts; None for one that is torn or lacks what a rollout has. Raises OSError."""
    for line in _json_lines(path):
        usable = (
            isinstance(line, dict)
            and all(isinstance(line.get(name), str) for name in ("problem_id", "prompt", "text"))
            and all(isinstance(line.get(name), int) for name in ("group_id", "sample_index", "num_tokens"))
            and isinstance(line.get("program"), str | None)
            and isinstance(line.get("verdict"), dict | None)
        )
        yield line if usable else None


def fate_of(line: Mapping[str, Any], *, held_out: bool) -> str:
    """What became of a stored rollout: one of FATES, or HELD_OUT."""
    if held_out:
        return HELD_OUT
    if line.get("trained"):
        return "trained"
    if line.get("reward") is None:
        return "quarantined"
    return f"filtered/{line.get('drop_reason') or 'overlong'}"  # of a used group, it was cut


def conservation(last: Mapping[str, Any], stored: Counted) -> list[dict[str, Any]]:
    """Rows {kind, run, run_mean, stored, stored_mean}: drawn, each fate that has rollouts, in flight.

    `last`: the newest line of metrics. `stored`: counted in the records of rollouts, which know nothing of what is in
    flight. A number that nobody has is None.
    """

    def row(kind: str, label: str, *, in_records: bool) -> dict[str, Any]:
        return {
            "kind": label,
            "run": last.get(f"rollouts/{kind}"),
            "run_mean": last.get(f"completion_tokens/{kind}"),
            "stored": stored.rollouts[kind] if in_records else None,
            "stored_mean": stored.mean(kind) if in_records else None,
        }

    kinds = [row(kind, kind.replace("_", " "), in_records=True) for kind in FATES]
    kinds = [one for one in kinds if one["run"] or one["stored"]]
    return [row("drawn", "drawn", in_records=False), *kinds, row("in_flight", "in flight", in_records=False)]


def state_of(run: Run, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Where the run stands, for people."""
    if not run.folder.config.exists():
        return "its folder is gone; what was read of it is shown"
    step = int(metrics[-1][names.STEP]) if metrics else None
    try:
        summary = json.loads(run.folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = None
    if isinstance(summary, dict) and summary.get("steps") == step:  # one of an earlier session is older
        return f"ended after step {step}" if summary.get("finished") else f"stopped after step {step}"
    if step is None:
        return "no step yet"
    return f"step {step} of {run.setting('num_steps')}; it has not ended"


def _json_lines(path: Path) -> Iterator[Any]:
    """The value of each line; None where there is none. Raises OSError."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None
