"""Where metrics are written: metrics.jsonl always, TensorBoard files and Weights & Biases when asked.

In: one mapping of metric names to numbers a step. Out: files in the run folder, complete up to the last step even
after a kill.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from nouscoder_jax.config import UserError
from nouscoder_jax.metrics import names


@runtime_checkable
class Sink(Protocol):
    """Takes the metrics of one step."""

    def write(self, metrics: Mapping[str, int | float]) -> None:
        """Writes them for good before it returns. Raises ValueError on a name that metrics.names does not list."""
        ...

    def close(self) -> None:
        """Frees the files."""
        ...


class JsonlSink:
    """One JSON object a line and step, flushed line by line; a number that is not finite becomes null."""

    def __init__(self, path: Path, *, resume_step: int | None) -> None:
        """Opens for appending. With `resume_step`, lines of later steps and a torn last line are removed first."""
        if resume_step is not None and path.exists():
            truncate_after(path, step=resume_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: Mapping[str, int | float]) -> None:
        _check_names(metrics)
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardSink:
    """One scalar a metric and step, each in a group."""

    def __init__(self, folder: Path, *, resume_step: int | None) -> None:
        """With `resume_step`, TensorBoard hides what an earlier process wrote for later steps."""
        from tensorboardX import SummaryWriter  # an optional sink: not imported by runs that do without

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, metrics: Mapping[str, int | float]) -> None:
        _check_names(metrics)
        step = int(metrics[names.STEP])
        for name, value in metrics.items():
            if name != names.STEP:
                self._writer.add_scalar(names.TENSORBOARD.get(name, name), value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """One run of Weights & Biases, and one step of it a step, however often the run is resumed.

    What was sent cannot be taken back: a step done again after a crash keeps its first figures there.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        """`folder` gets its files and sent.json, which has the run's id and the newest step that was sent. Raises
        UserError."""
        import wandb  # an optional sink, of the extra `wandb`

        folder.mkdir(exist_ok=True)
        self._sent = folder / "sent.json"
        known = json.loads(self._sent.read_text(encoding="utf-8")) if self._sent.exists() else {}
        self._id: str = known.get("id") or secrets.token_hex(4)
        self._step: int = known.get("step", -1)
        settings = wandb.Settings(console="off", disable_git=True, disable_code=True)
        try:
            self._run = wandb.init(dir=str(folder), id=self._id, name=name, resume="allow", settings=settings)
        except wandb.Error as error:
            raise UserError(
                f"logging.wandb is on, and Weights & Biases does not start ({error}); `wandb login`, "
                "WANDB_MODE=offline, or --logging.no-wandb"
            ) from error

    def write(self, metrics: Mapping[str, int | float]) -> None:
        _check_names(metrics)
        step = int(metrics[names.STEP])
        if step <= self._step:
            return
        self._run.log({name: value for name, value in metrics.items() if name != names.STEP}, step=step)
        self._step = step
        partial = self._sent.with_name(self._sent.name + ".partial")
        partial.write_text(json.dumps({"id": self._id, "step": step}), encoding="utf-8")
        os.replace(partial, self._sent)

    def close(self) -> None:
        self._run.finish()


def truncate_after(path: Path, *, step: int) -> None:
    """Keeps the lines of a JSONL file with a whole JSON object whose `step` is at most `step`; atomic."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if isinstance(value, dict) and value.get(names.STEP, step + 1) <= step:
            kept.append(line + "\n")
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def read_jsonl(path: Path) -> list[dict[str, int | float | None]]:
    """The steps of a metrics.jsonl, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _check_names(metrics: Mapping[str, int | float]) -> None:
    if unknown := names.unknown(metrics):
        raise ValueError(f"got unknown metrics {unknown}; add them to nouscoder_jax/metrics/names.py")
    if names.STEP not in metrics:
        raise ValueError(f"got metrics without {names.STEP!r}")
