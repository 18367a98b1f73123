"""Everything that a page shows, read from run folders and kept up with them.

In: runs. Out: `Contents`: the overview (runs, charts, where rollouts went) as JSON values, and the packed rollouts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.store import content_hash
from nouscoder_jax.report.charts import charts_of, samples_note
from nouscoder_jax.report.pack import Pack, cut
from nouscoder_jax.report.read import (
    Counted,
    Line,
    Run,
    conservation,
    fate_of,
    files_of,
    read_metrics,
    read_rollouts,
    state_of,
)
from nouscoder_jax.types import Problem

TEST_CHARS = 2000
"""Shown of a test's input and of its expected output."""
_IN_DETAIL = re.compile(r"test (\d+): ")
"""How the detail of a verdict begins that does not have the test's number; older runs keep such."""

Stamp = tuple[int, int]
"""Size and time of change of a file."""


class Contents:
    """What the page shows of some runs."""

    def __init__(self, runs: Sequence[Run], *, text_chars: int) -> None:
        """Empty until `update`. `text_chars`: as in Pack."""
        self._runs, self._text_chars = tuple(runs), text_chars
        self._problem_sets: dict[tuple[str, str], dict[str, Problem]] = {}
        self.generation = 0
        """Counts how often everything was read anew, because a run had done a step again."""
        self._begin()

    def _begin(self) -> None:
        self.pack = Pack(text_chars=self._text_chars)
        self._read: dict[tuple[int, bool, int], Stamp] = {}
        self._counted = [Counted() for _ in self._runs]
        self._samples: list[dict[int, int]] = [{} for _ in self._runs]
        self._unreadable = [0 for _ in self._runs]

    def close(self) -> None:
        """Frees files."""
        self.pack.close()

    def update(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Reads what is new. `progress` is told how many files of how many are read."""
        if self._any_done_again():
            self.pack.close()
            self.generation += 1
            self._begin()
        found = [(number, *file) for number, run in enumerate(self._runs) for file in files_of(run)]
        new = [one for one in found if one[:3] not in self._read]
        for done, (number, held_out, step, path) in enumerate(new):
            progress(done, len(new))
            self._take(number, held_out, step, path)
        progress(len(new), len(new))
        self.pack.flush()

    def overview(self) -> dict[str, Any]:
        """Runs, charts and tables as JSON values."""
        metrics = {run.name: read_metrics(run) for run in self._runs}
        note = samples_note({run.name: by_step for run, by_step in zip(self._runs, self._samples, strict=True)})
        runs = [
            {
                "name": run.name,
                "state": state_of(run, metrics[run.name]),
                "config": {name: run.setting(name) for name in ("name", "seed", "loss.name", "rollout.group_size")},
                "fates": conservation(metrics[run.name][-1] if metrics[run.name] else {}, counted),
                "unreadable": unreadable,
            }
            for run, counted, unreadable in zip(self._runs, self._counted, self._unreadable, strict=True)
        ]
        return {
            "runs": runs,
            "charts": charts_of(metrics, {"Held-out pass@1": note}),
            "rollouts": self.pack.num_rollouts,
        }

    def _any_done_again(self) -> bool:
        """Whether a file that was read is another one now, or is gone while its run is not."""
        for (number, held_out, step), stamp in self._read.items():
            folder = self._runs[number].folder
            now = _stamp(folder.held_out_of(step) if held_out else folder.rollouts_of(step))
            if now != stamp and folder.config.exists():
                return True
        return False

    def _take(self, number: int, held_out: bool, step: int, path: Path) -> None:
        run, counted, problems = self._runs[number], self._counted[number], set()
        stamp, num_rollouts = _stamp(path), 0
        if stamp is None:
            return
        tests = self._problems(run, "data.held_out" if held_out else "data.problems")
        for line in read_rollouts(path):
            if line is None:
                self._unreadable[number] += 1
                continue
            self.pack.add(line, run=number, step=step, held_out=held_out, test=_first_failing(line, tests))
            counted.add(fate_of(line, held_out=held_out), line["num_tokens"])
            problems.add(line["problem_id"])
            num_rollouts += 1
        self._read[number, held_out, step] = stamp
        if held_out and problems:
            self._samples[number][step] = round(num_rollouts / len(problems))

    def _problems(self, run: Run, field: str) -> Mapping[str, Problem]:
        """The problems of the run's file by their id; none where it is gone or another one."""
        path = str(run.setting(field) or "")
        try:
            hashes = json.loads(run.folder.inputs.read_text(encoding="utf-8"))
            wanted = hashes[field]
            if (path, wanted) not in self._problem_sets:
                same = bool(path) and content_hash(Path(path)) == wanted
                by_id = {problem.problem_id: problem for problem in read_problems(path)} if same else {}
                self._problem_sets[path, wanted] = by_id
            return self._problem_sets[path, wanted]
        except (OSError, ValueError, LookupError, TypeError, UserError):
            return {}


def _first_failing(line: Line, problems: Mapping[str, Problem]) -> dict[str, str] | None:
    """The first test that the program failed, as far as it is known; None where none did."""
    verdict = line["verdict"] or {}
    number = verdict.get("failed_test")
    if number is None and (match := _IN_DETAIL.match(str(verdict.get("detail", "")))):
        number = int(match[1])
    if not isinstance(number, int):
        return None
    problem = problems.get(line["problem_id"])
    if problem is None or not 1 <= number <= len(problem.tests):
        return {"number": str(number)}
    test = problem.tests[number - 1]
    return {"number": str(number), "input": cut(test.input, TEST_CHARS), "expected": cut(test.expected, TEST_CHARS)}


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
