"""The run folder: what a run writes and what a resumed run finds.

In: a path, JSON values, experiences. Out: config.json, inputs.json, rollouts/step-NNNNNN.jsonl, summary.json; paths of
the rest.
With several processes the head writes all of it but the weights: checkpoints and exports are written by all.
Each step's rollouts are a file of their own, so that a step done again after a crash replaces it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.changes import changes, hash_files
from nouscoder_jax.types import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths of one run.

    Example:
        RunFolder(path=Path("runs/tiny-20261123-130000"), weights_dir="")
    """

    path: Path
    """The folder that the user names."""
    weights_dir: str
    """As in CheckpointConfig."""

    @property
    def config(self) -> Path:
        """The resolved config, JSON."""
        return self.path / "config.json"

    @property
    def inputs(self) -> Path:
        """SHA-256 of the problem files, JSON: what the run began with."""
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
    def tensorboard(self) -> Path:
        """TensorBoard files."""
        return self.path / "tensorboard"

    @property
    def plot(self) -> Path:
        """Held-out pass@1 as a picture."""
        return self.path / "pass_at_1.png"

    @property
    def summary(self) -> Path:
        """Result of the run, JSON; written at its end."""
        return self.path / "summary.json"

    def write_config(self, config: TrainConfig) -> None:
        """Writes config.json and inputs.json."""
        _write_atomically(self.config, config.to_json() + "\n")
        _write_atomically(self.inputs, json.dumps(hash_files(config), indent=1) + "\n")

    def write_rollouts(self, step: int, lines: Iterable[dict[str, Any]]) -> None:
        """Writes the rollouts of one step, in place of any that an interrupted try of it has left."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        _write_atomically(self.rollouts / f"step-{step:06d}.jsonl", text)

    def drop_rollouts_after(self, step: int) -> None:
        """Deletes the rollouts of later steps: a run that goes on after `step` writes them again."""
        for path in self.rollouts.glob("step-*.jsonl"):
            if int(path.stem.removeprefix("step-")) > step:
                path.unlink()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        _write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")


def create(config: TrainConfig) -> RunFolder:
    """A new run folder. Raises UserError where it already holds a run or cannot be written."""
    named = config.run_dir or f"runs/{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = _folder(config, Path(named))
    if folder.config.exists():
        raise UserError(
            f"{folder.path} already holds a run; continue it with --resume {folder.path}, or give another --run-dir"
        )
    if folder.path.is_dir() and any(folder.path.iterdir()):
        raise UserError(f"{folder.path} is not empty and holds no run; give --run-dir a new or empty folder")
    try:
        folder.rollouts.mkdir(parents=True, exist_ok=True)
        folder.write_config(config)
    except OSError as error:
        raise UserError(
            f"cannot write the run folder {folder.path}: {error.strerror}; give another --run-dir"
        ) from error
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How a run goes on.

    Example:
        Resume(step=None, with_changes=False)
    """

    step: int | None
    """The checkpoint to go on from; None: the newest that is whole."""
    with_changes: bool
    """Whether a config that changes what the run means is taken."""


def reopen(config: TrainConfig, resume: Resume, *, say: Callable[[str], None]) -> RunFolder:
    """The folder of a run to resume, `config.run_dir`; keeps the config as it is now.

    Raises:
        UserError: it cannot be written, or `config` or a problem file differs from the run's own in what changes its
            meaning and `resume` does not allow it. With it, `say` gets the differences.
    """
    folder = _folder(config, Path(config.run_dir))
    if found := _changes(folder, config):
        told = "; ".join(found)
        if not resume.with_changes:
            raise UserError(
                f"{folder.path} would go on with changes: {told}. They change what its figures mean: drop them, start "
                "a new run, or add --resume-with-changes"
            )
        say(f"resumed with changes: {told}")
    try:
        folder.rollouts.mkdir(parents=True, exist_ok=True)
        folder.write_config(config)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder.path}: {error.strerror}; mend its permissions") from error
    return folder


def _changes(folder: RunFolder, config: TrainConfig) -> list[str]:
    found = changes(TrainConfig.from_json(folder.config.read_text(encoding="utf-8")), config)
    if folder.inputs.exists():  # not in the folders of older versions
        before = json.loads(folder.inputs.read_text(encoding="utf-8"))
        found += [
            f"the file of {name} holds something else than when the run began"
            for name, digest in hash_files(config).items()
            if before.get(name) != digest
        ]
    return found


def _folder(config: TrainConfig, path: Path) -> RunFolder:
    return RunFolder(path=path.expanduser().resolve(), weights_dir=config.checkpoint.weights_dir)


def rollout_line(step: int, experience: Experience, drop_reason: DropReason | None) -> dict[str, Any]:
    """One rollout as it is kept: enough to judge it again and to say what became of it.

    `drop_reason`: why its group was not trained on; None where it was.
    """
    rollout, verdict = experience.rollout, experience.verdict
    return {
        "step": step,
        "group_id": rollout.group_id,
        "sample_index": rollout.sample_index,
        "problem_id": rollout.prompt.problem_id,
        "policy_version": rollout.completion.policy_version,
        "finish_reason": rollout.completion.finish_reason,
        "num_tokens": len(rollout.completion.token_ids),
        "version_spans": [list(span) for span in rollout.completion.spans],
        "text": rollout.text,
        "program": rollout.program,
        "rules_differ": rollout.rules_differ,
        "verdict": None
        if verdict is None
        else {
            "outcome": verdict.outcome.value,
            "tests_passed": verdict.tests_passed,
            "tests_total": verdict.tests_total,
            "cpu_s": round(verdict.cpu_s, 4),
            "peak_memory_mib": round(verdict.peak_memory_mib, 1),
            "detail": verdict.detail,
        },
        "reward": experience.reward,
        "advantage": experience.advantage,
        "drop_reason": drop_reason.value if drop_reason else None,
        "trained": experience.trainable,
    }


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
