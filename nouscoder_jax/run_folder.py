"""The run folder: what a run writes and what a resumed run finds.

In: a path, JSON values. Out: config.json, configs.jsonl, inputs.json, rollouts/ and held_out/step-NNNNNN.jsonl,
summary.json; paths of the rest.
With several processes the head writes all of it but the weights: checkpoints and exports are written by all.
Each step's rollouts are a file of their own, so that a step done again after a crash replaces it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.config import TrainConfig, UserError

_OF_A_STEP = re.compile(r"step-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths of one run.

    Example:
        RunFolder(path=Path("runs/tiny-20261123-130000"))
    """

    path: Path
    """The folder that the user names."""
    weights_dir: str = ""
    """As in CheckpointConfig; only `weights` needs it."""

    @classmethod
    def of(cls, path: Path, config: TrainConfig) -> RunFolder:
        """The folder at `path` of a run with this config."""
        return cls(path=path.expanduser().resolve(), weights_dir=config.checkpoint.weights_dir)

    @property
    def resume_command(self) -> str:
        """What goes on with the run, for a shell."""
        return f"python scripts/train.py --resume {shlex.quote(str(self.path))}"

    @property
    def config(self) -> Path:
        """The resolved config of the latest start, JSON."""
        return self.path / "config.json"

    @property
    def configs(self) -> Path:
        """The resolved config of every start, JSONL. Step N was last done with the config of the last line whose
        `after_step` is below N."""
        return self.path / "configs.jsonl"

    @property
    def inputs(self) -> Path:
        """SHA-256 of the problem files, JSON: what the latest start found."""
        return self.path / "inputs.json"

    @property
    def metrics(self) -> Path:
        """One line a step, JSONL."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of rollouts, one file a step, one line a rollout."""
        return self.path / "rollouts"

    @property
    def held_out(self) -> Path:
        """Folder of held-out samples, one file an evaluation, one line a sample."""
        return self.path / "held_out"

    @property
    def journal(self) -> Path:
        """Groups and batches that no checkpoint holds yet (loop/journal.py)."""
        return self.path / "journal"

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints, to resume from; all processes write each one together."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Exported weights of the newest versions, for the engine."""
        root = Path(self.weights_dir).expanduser().resolve() / self.path.name if self.weights_dir else self.path
        return root / "weights"

    @property
    def export(self) -> Path:
        """The trained policy as a Hugging Face directory."""
        return self.path / "export"

    @property
    def servers(self) -> Path:
        """Logs of the servers that the run starts."""
        return self.path / "servers"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard files."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Files of Weights & Biases, and up to which step it has the metrics."""
        return self.path / "wandb"

    @property
    def plot(self) -> Path:
        """Held-out pass@1 as a picture."""
        return self.path / "pass_at_1.png"

    @property
    def summary(self) -> Path:
        """Result of the run, JSON; written at its end."""
        return self.path / "summary.json"

    @property
    def left_by_a_failed_start(self) -> tuple[Path, ...]:
        """What a start that has failed may leave: logs of servers that did not answer, a first file cut off."""
        return (self.servers, _part(self.config))

    def read_config(self, *, option: str) -> TrainConfig:
        """The config that the run was last started with; `option` took the folder. Raises UserError: there is none, or
        it is of another version."""
        try:
            return TrainConfig.from_json(self.config.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{self.path} holds no run ({self.config.name}: {error.strerror}); give {option} the folder that a run "
                "has written"
            ) from error

    def write_config(self, config: TrainConfig, *, inputs: Mapping[str, str], after_step: int) -> None:
        """Writes config.json and inputs.json, `inputs` by field of the config, and adds a line to configs.jsonl: a
        session with this config starts after `after_step`."""
        _write_atomically(self.config, config.to_json() + "\n")
        earlier = self.configs.read_text(encoding="utf-8") if self.configs.exists() else ""
        start = {"after_step": after_step, "config": dataclasses.asdict(config)}
        _write_atomically(self.configs, earlier + json.dumps(start) + "\n")
        _write_atomically(self.inputs, json.dumps(inputs, indent=1) + "\n")

    def rollouts_of(self, step: int) -> Path:
        """The rollouts of one step."""
        return self.rollouts / f"step-{step:06d}.jsonl"

    def rollout_steps(self) -> list[int]:
        """The steps that have rollouts, in order."""
        return _steps(self.rollouts)

    def held_out_steps(self) -> list[int]:
        """The steps that have held-out samples, in order."""
        return _steps(self.held_out)

    def write_rollouts(self, step: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes the rollouts of one step, in place of any that an interrupted try of it has left."""
        _write_atomically(self.rollouts_of(step), _jsonl(lines))

    def held_out_of(self, step: int) -> Path:
        """The held-out samples drawn after one step."""
        return self.held_out / self.rollouts_of(step).name

    def write_held_out(self, step: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes the held-out samples drawn after one step, in place of any that are there."""
        self.held_out.mkdir(exist_ok=True)
        _write_atomically(self.held_out_of(step), _jsonl(lines))

    def drop_rollouts_after(self, step: int) -> None:
        """Deletes the rollouts and held-out samples of later steps: a run that goes on after `step` writes them
        again."""
        for folder, file_of in ((self.rollouts, self.rollouts_of), (self.held_out, self.held_out_of)):
            for later in _steps(folder):
                if later > step:
                    file_of(later).unlink()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        _write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")


def _steps(folder: Path) -> list[int]:
    """The steps that have a file in the folder, in order."""
    names = (_OF_A_STEP.fullmatch(path.name) for path in folder.glob("*"))
    return sorted(int(name[1]) for name in names if name)


def _jsonl(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _write_atomically(path: Path, text: str) -> None:
    # A lone surrogate, as a program may print one, becomes its escape, which JSON reads back.
    _part(path).write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(_part(path), path)


def _part(path: Path) -> Path:
    """The file while it is written."""
    return path.with_name(path.name + ".part")
