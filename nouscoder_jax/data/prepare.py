"""From public sets to one prepared folder: what scripts/prepare_data.py does.

In: sources (data/sources.py), filters, a folder. Out: the folder of data/store.py and, beside it, report.md and
rejected.jsonl: a line for every record that is not in it, with its place and the reason. One record is in memory at a
time, beside what statements are compared by, and a shard's files are written as they grow. Whatever stops it, the next
call goes on after the last whole shard.

    sources -> reader of the format -> data/problems.py -> filters -> likeness -> shard -> problems.json, report.md
                    |                      |                 |           |
                    +----------------------+-----------------+-----------+-> rejected.jsonl; without skip_broken an
                                                                             error at the first broken one
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from nouscoder_jax.config import UserError
from nouscoder_jax.data.filters import Filters
from nouscoder_jax.data.likeness import HeldOut, Statements
from nouscoder_jax.data.prepare_report import Progress, report
from nouscoder_jax.data.problems import parse_problem, parse_solutions, read_problems
from nouscoder_jax.data.readers.fields import LeftOutError
from nouscoder_jax.data.readers.formats import READERS
from nouscoder_jax.data.references import doubtful
from nouscoder_jax.data.solved import always_solved
from nouscoder_jax.data.sources import Raw, Source, find_files, raw_records
from nouscoder_jax.data.store import FORMAT, MANIFEST, SHARD_BYTES, ShardWriter, Store
from nouscoder_jax.types import Problem, Solution

PROGRESS, REJECTED, REPORT = "progress.json", "rejected.jsonl", "report.md"
BROKEN, SAME_ID = "broken", "an id that was there before"
HELD_OUT, SAME, NEAR = "of the held-out set", "the same statement", "nearly the same statement"
SOLVED = "solved every time"


def prepare(
    sources: Sequence[Source],
    out: Path,
    *,
    filters: Filters,
    skip_broken: bool,
    say: Callable[[str], None],
    shard_bytes: int = SHARD_BYTES,
) -> Progress:
    """Writes the folder, or goes on with it. `say`: takes lines that say how far it is.

    Raises UserError: a source that is not there, a broken record without `skip_broken` (with its place and reason; what
    was done is kept), a folder of other sources or filters, no problem left.
    """
    files = [(source.format, path) for source in sources for path in find_files(source)]
    named, wanted = [asdict(source) for source in sources], asdict(filters)
    likeness = _Likeness(filters)
    progress = _begin(out, named, json.loads(json.dumps(wanted)), _sizes(files))
    if progress is None:
        say(f"{out} is finished already")
        return _finished(out)
    with open(out / REJECTED, "ab") as rejected:
        if rejected.tell() < progress.rejected_bytes:
            raise UserError(f"{out / REJECTED} is shorter than it was written; give another --out")
        rejected.truncate(progress.rejected_bytes)
        rejected.seek(progress.rejected_bytes)
        work = _Work(progress, out, rejected, likeness, filters=filters, shard_bytes=shard_bytes)
        try:
            for name, raw, next_at in _from(files, progress):
                work.take(name, raw, next_at, skip_broken=skip_broken)
                say(f"{progress.line()} (file {progress.file + 1} of {len(files)})")
        except UserError:  # of the record that is next: what is before it is whole
            work.end_shard()
            raise
        except BaseException:
            work.discard()
            raise
        work.end_shard()
    if not progress.num_kept:
        raise UserError(f"of {progress.num_read} records none is kept: {progress.line()}; see {out / REJECTED}")
    manifest = {"format": FORMAT, "num_problems": progress.num_kept} | asdict(progress)
    for name in ("file", "record", "record_sha256", "rejected_bytes"):
        del manifest[name]
    (out / REPORT).write_text(report(Store(out, manifest), progress), encoding="utf-8")
    _write(out / MANIFEST, manifest)
    (out / PROGRESS).unlink()
    return progress


def _begin(
    out: Path, sources: list[dict[str, str]], filters: dict[str, Any], files: list[list[Any]]
) -> Progress | None:
    """The progress to go on from; None where the folder is finished."""
    made = out / MANIFEST if (out / MANIFEST).is_file() else out / PROGRESS
    if not made.is_file():
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"--out got {out}, which holds other things; give a new or empty folder")
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out got {out}, which cannot be made: {error.strerror}; give another folder") from error
        progress = Progress(sources=sources, filters=filters, files=files)
        _write(out / PROGRESS, asdict(progress))
        return progress
    found = _read(made)
    for what, value in (("sources", sources), ("filters", filters)):
        if found[what] != value:
            raise UserError(
                f"{out} was begun with {what} {json.dumps(found[what])}, not {json.dumps(value)}; give the same, or "
                "another --out"
            )
    done = len(files) if made.name == MANIFEST else found["file"]
    before = found["files"]
    changed = [name for (_, name, _), (_, old, _) in zip(files, before, strict=False) if old != name]
    changed += [name for (_, name, size), (_, _, old) in zip(files[:done], before, strict=False) if old != size]
    if changed or len(files) != len(before):
        what = changed[0] if changed else f"{len(files)} files, {len(before)} before"
        raise UserError(f"the sources of {out} are not those that it was begun with ({what}); give another --out")
    if made.name == MANIFEST:
        return None
    found["files"] = files
    return Progress(**found)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {"sources", "filters", "files"} <= found.keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{path} is not what was written there; give another --out")


def _finished(out: Path) -> Progress:
    found = Store(out).manifest
    return Progress(**{name: value for name, value in found.items() if name not in ("format", "num_problems")})


def _from(files: Sequence[tuple[str, Path]], progress: Progress) -> Iterator[tuple[str, Raw, tuple[int, int]]]:
    """The records that are not done, each with its format and with where the next one is. Raises UserError: the last
    one that is done is another one now."""
    file, record, digest = progress.file, progress.record, progress.record_sha256
    for number in range(file, len(files)):
        name, path = files[number]
        for index, raw in enumerate(raw_records(path), start=1):
            if number > file or index > record:
                yield name, raw, (number, index)
            elif index == record and _digest(raw) != digest:
                raise UserError(f"{raw.place} was changed since it was read; give another --out")


def _digest(raw: Raw) -> str:
    return hashlib.sha256(json.dumps(raw.record, sort_keys=True, default=str).encode()).hexdigest()


def _sizes(files: Sequence[tuple[str, Path]]) -> list[list[Any]]:
    return [[name, str(path), path.stat().st_size if path.is_file() else 0] for name, path in files]


class _Likeness:
    """What a problem is compared with: verdicts, rollouts, the held-out set, the statements that are kept."""

    def __init__(self, filters: Filters) -> None:
        """Raises UserError: a file is not there, or not what it should be."""
        self._doubtful = doubtful(filters.verdicts) if filters.verdicts else {}
        self._solved = always_solved(filters.solved, of=filters.solved_of) if filters.solved else frozenset()
        self._held_out = HeldOut(read_problems(filters.held_out)) if filters.held_out else None
        self._statements = Statements(filters.likeness) if filters.likeness else None

    def add(self, problem: Problem) -> None:
        """From here on others are compared with it."""
        if self._statements is not None:
            self._statements.add(problem)

    def reason(self, problem: Problem) -> tuple[str, str] | None:
        """The kind of reason for which a problem is left out, and the reason."""
        if doubt := self._doubtful.get(problem.problem_id):
            return doubt[0], f"{problem.problem_id}: {doubt[1]}"
        if problem.problem_id in self._solved:
            return SOLVED, problem.problem_id
        if self._held_out is not None and (like := self._held_out.find(problem)):
            return HELD_OUT, f"{problem.problem_id} is like {like.problem_id}: {like.share:.0%}"
        if self._statements is not None and (like := self._statements.find(problem)):
            return SAME if like.same else NEAR, f"{problem.problem_id} is like {like.problem_id}: {like.share:.0%}"
        return None


class _Work:
    """Puts one record after another into the shard that is open, or into the list of the rejected."""

    def __init__(
        self,
        progress: Progress,
        out: Path,
        rejected: BinaryIO,
        likeness: _Likeness,
        *,
        filters: Filters,
        shard_bytes: int,
    ) -> None:
        self._progress, self._out, self._file, self._shard_bytes = progress, out, rejected, shard_bytes
        self._filters, self._likeness = filters, likeness
        self._ids: set[str] = set()
        for problem in Store(out, {"format": FORMAT, "shards": progress.shards}).problems():
            self._remember(problem)
        self._shard: ShardWriter | None = None
        self._last: Raw | None = None

    def take(self, name: str, raw: Raw, next_at: tuple[int, int], *, skip_broken: bool) -> None:
        """Raises UserError: the record is broken, and broken ones are not skipped."""
        progress = self._progress
        try:
            kind, reason = self._keep(name, raw.record)
        except LeftOutError as error:
            kind = reason = str(error)
        except ValueError as error:
            if not skip_broken:
                raise UserError(
                    f"{raw.place}: {error}; mend it, or leave such records out with --skip-broken"
                ) from error
            kind, reason = BROKEN, str(error)
        if kind:
            progress.rejected[kind] = progress.rejected.get(kind, 0) + 1
            line = {"place": raw.place, "format": name, "kind": kind, "reason": reason}
            self._file.write(json.dumps(line).encode() + b"\n")
        progress.num_read += 1
        progress.file, progress.record = next_at
        self._last = raw
        if self._shard is not None and self._shard.num_bytes >= self._shard_bytes:
            self.end_shard()

    def _keep(self, name: str, record: dict[str, Any] | ValueError) -> tuple[str, str]:
        """Writes the problem. Empty, or the kind of reason why not, and the reason. Raises as readers do."""
        if isinstance(record, ValueError):
            raise record
        try:
            fields = READERS[name](record)
            problem, solutions = parse_problem(fields), parse_solutions(fields)
        except (TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError) as error:
            raise ValueError(
                f"a value is of another kind than its format has ({type(error).__name__}: {error})"
            ) from error
        if problem.problem_id in self._ids:
            return SAME_ID, problem.problem_id
        if reason := self._filters.reason(problem):
            return reason, reason
        if found := self._likeness.reason(problem):
            return found
        if self._shard is None:
            self._shard = ShardWriter(self._out, len(self._progress.shards))
        self._shard.add(problem, _first_of_each_label(solutions, self._filters.programs))
        self._remember(problem)
        origin = json.dumps([problem.source, problem.license])
        self._progress.kept[origin] = self._progress.kept.get(origin, 0) + 1
        return "", ""

    def _remember(self, problem: Problem) -> None:
        self._ids.add(problem.problem_id)
        self._likeness.add(problem)

    def discard(self) -> None:
        """Drops what is not yet in a whole shard."""
        if self._shard is not None:
            self._shard.discard()

    def end_shard(self) -> None:
        """Makes what is done so far last."""
        if self._shard is not None:
            self._progress.shards.append(self._shard.close())
            self._shard = None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._progress.rejected_bytes = self._file.tell()
        if self._last is not None:
            self._progress.record_sha256 = _digest(self._last)
        _write(self._out / PROGRESS, asdict(self._progress))


def _first_of_each_label(solutions: Sequence[Solution], most: int) -> list[Solution]:
    kept, counts = [], Counter[str | None]()
    for solution in solutions:
        counts[solution.label] += 1
        if counts[solution.label] <= most:
            kept.append(solution)
    return kept


def _write(path: Path, value: dict[str, Any]) -> None:
    """The file as a whole, or as it was."""
    beside = path.with_name(path.name + ".partial")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
