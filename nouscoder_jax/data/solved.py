"""Problems that a policy solves every time: they teach it nothing.

In: recorded rollouts as a run keeps them in rollouts/ and held_out/: JSON lines with problem_id and verdict. Out: ids
of the problems whose samples were all accepted, where there were enough. The original leaves out what its base model
solves 8 of 8 times (NousResearch/atropos, environments/code_execution_server).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from pathlib import Path

from nouscoder_jax.config import UserError


def always_solved(path: str | Path, *, of: int) -> frozenset[str]:
    """Ids of the problems of which at least `of` samples were judged, and every one was accepted.

    `path`: a .jsonl or .jsonl.gz file, or a folder of them, such as a run folder. Raises UserError: it holds none, or a
    line that is no rollout.
    """
    path = Path(path)
    files = sorted(path.rglob("step-*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"{path} holds no rollouts; expected a .jsonl file of them, or a run folder")
    judged, accepted = Counter[str](), Counter[str]()
    for file in files:
        opener = gzip.open if file.name.endswith(".gz") else open
        try:
            with opener(file, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    problem_id, outcome = _rollout(line, f"{file}, line {number}")
                    if outcome is not None:
                        judged[problem_id] += 1
                        accepted[problem_id] += outcome == "accepted"
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read ({error}); give a run folder, or copy it again") from error
    if not judged:
        raise UserError(f"{path} holds no judged rollouts; give the run folder of the base policy")
    return frozenset(name for name, count in judged.items() if count >= of and accepted[name] == count)


def _rollout(line: str, place: str) -> tuple[str, str | None]:
    """The problem and the outcome; None: the judge failed."""
    try:
        fields = json.loads(line)
        return str(fields["problem_id"]), fields["verdict"] and str(fields["verdict"]["outcome"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is no rollout ({error!r}); expected JSON with problem_id and verdict") from error
