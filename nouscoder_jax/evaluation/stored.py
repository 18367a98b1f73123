"""The folder of an evaluation: what goes on after a stop, and what is compared later.

In: judged completions, as they come. Out: the samples that a session before this one has judged.

    settings.json    what the samples depend on; another evaluation may not go on in the folder
    samples.jsonl    a line a judged completion, on the disk before the next one counts; a last line that was cut is
                     dropped. Completions that the engine or the judge failed at have no line: they are drawn again
    result.json      the numbers, written whole at the end
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.evaluation.score import Sample
from nouscoder_jax.types import Problem, Prompt, Rollout

RESULT, SAMPLES, SETTINGS = "result.json", "samples.jsonl", "settings.json"

_DECIDING = (
    *("seed", "data.held_out", "data.system_prompt", "data.stdin_prompt", "data.function_prompt"),
    *("data.enable_thinking", "data.max_prompt_tokens", "data.extract_rule"),
    *("model.compute_dtype", "model.yarn_factor", "model.yarn_original_tokens", "rollout.engine"),
    *("evaluation.samples_per_problem", "evaluation.temperature", "evaluation.top_p", "evaluation.top_k"),
    *("evaluation.max_completion_tokens", "verifier.default_time_limit_s", "verifier.wall_factor"),
    *("verifier.memory_limit_mib", "verifier.output_limit_mib", "verifier.max_processes"),
)
"""Fields of a config that a sample or its verdict depends on."""


def settings_of(
    config: TrainConfig,
    *,
    model: str,
    released: str,
    graders: Sequence[str],
    problems: Sequence[Problem],
    prompts: Mapping[str, Prompt],
) -> dict[str, Any]:
    """What the samples of an evaluation depend on, by name."""
    fields = config.flatten()
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        prompt = prompts.get(problem.problem_id)
        digest.update(repr((problem.problem_id, len(problem.tests), prompt and prompt.token_ids)).encode())
    return {
        "model": model,
        "released": released,
        "graders": list(graders),
        **{name: fields[name] for name in _DECIDING},
        "problems and prompts": digest.hexdigest(),
    }


@dataclass(slots=True, kw_only=True)
class SampleLog:
    """Samples in the order in which they were judged.

    Example:
        with open_log(Path("out"), settings) as log:
            log.add(rollout, sample)
    """

    kept: dict[tuple[str, int], Sample] = field(default_factory=dict)
    """Problem id and sample index -> the sample of a session before this one."""
    file: BinaryIO | None = None

    def add(self, rollout: Rollout, sample: Sample) -> None:
        """Returns once the sample is on the disk; does nothing without a folder."""
        if self.file is None:
            return
        values = {
            "problem_id": sample.problem_id,
            "sample_index": sample.sample_index,
            "outcome": sample.outcome,
            "tokens": sample.num_tokens,
            "truncated": sample.truncated,
            "detail": sample.detail,
            "published_outcome": sample.published_outcome,
            "published_detail": sample.published_detail,
            "program": rollout.program,
            "text": rollout.text,
        }
        self.file.write(json.dumps(values).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


@contextlib.contextmanager
def open_log(folder: Path | None, settings: Mapping[str, Any]) -> Iterator[SampleLog]:
    """The log of a folder, which is made where it is not there; None: a log that keeps nothing.

    Raises UserError: the folder cannot be written, holds something else, or samples of other settings.
    """
    if folder is None:
        yield SampleLog()
        return
    try:
        folder.mkdir(exist_ok=True)
        _check_settings(folder, settings)
        kept = _read_kept(folder / SAMPLES)
        file = (folder / SAMPLES).open("ab")
    except OSError as error:
        raise UserError(f"--out got {folder}, which cannot be used: {error.strerror}; name another folder") from error
    with file:
        yield SampleLog(kept=kept, file=file)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        if others := sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".part")):
            raise UserError(
                f"--out got {folder}, which holds {others[0]} and no {SETTINGS}: no evaluation; name a new folder"
            )
        write_whole(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"--out got {folder}, whose {SETTINGS} cannot be read ({error}); name a new folder") from error
    differ = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    if differ:
        told = "; ".join(f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}" for name in differ[:3])
        raise UserError(f"--out got {folder}, an evaluation with other settings ({told}); name a new folder")


def _read_kept(path: Path) -> dict[tuple[str, int], Sample]:
    """The samples of a file, which ends at its last whole line afterwards."""
    kept: dict[tuple[str, int], Sample] = {}
    if not path.exists():
        return kept
    whole = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                values = json.loads(line)
                sample = Sample(
                    problem_id=str(values["problem_id"]),
                    sample_index=int(values["sample_index"]),
                    passed=values["outcome"] == "accepted",
                    num_tokens=int(values["tokens"]),
                    truncated=bool(values["truncated"]),
                    outcome=str(values["outcome"]),
                    detail=str(values["detail"]),
                    published_outcome=str(values["published_outcome"]),
                    published_detail=str(values["published_detail"]),
                )
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(f"{path}:{number} is no sample ({type(error).__name__}: {error}); remove it") from error
            kept[sample.problem_id, sample.sample_index] = sample
        file.truncate(whole)
    return kept
