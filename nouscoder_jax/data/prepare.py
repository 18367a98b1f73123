"""From public sets to one prepared folder: what scripts/prepare_data.py does.

In: sources (data/sources.py), filters, a folder. Out: the folder of data/store.py and, beside it, `rejected.jsonl`: a
line for every record that is not in it, with its place and the reason. One record is in memory at a time, and a shard's
files are written as they grow. Whatever stops it, the next call goes on after the last whole shard.

    sources -> reader of the format -> filters -> data/problems.py -> shard -> problems.json
                    |                      |             |
                    +----------------------+-------------+-> rejected.jsonl, or an error at the first broken one
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from nouscoder_jax.config import UserError
from nouscoder_jax.data.problems import parse_problem, parse_solutions
from nouscoder_jax.data.readers import READERS, LeftOutError
from nouscoder_jax.data.sources import Raw, Source, find_files, raw_records
from nouscoder_jax.data.store import FORMAT, MANIFEST, SHARD_BYTES, ShardWriter
from nouscoder_jax.types import Problem

PROGRESS, REJECTED = "progress.json", "rejected.jsonl"
NO_DATE, OTHER_DATE, OTHER_LICENSE = "no date", "outside the dates", "another license"
BROKEN, DUPLICATE = "broken", "an id that was there before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which problems are kept.

    Example:
        Filters(dates=("2024-08-01", "2025-05-01"), licenses=("MIT*", "Apache-2.0*"))
    """

    dates: tuple[str, str] | None = None
    """First and last day, both included; a problem without a date is left out. None: all."""
    licenses: tuple[str, ...] = ()
    """Patterns, of which a problem's license matches one, letters of any case; empty: all."""

    def reason(self, problem: Problem) -> str | None:
        """Why a problem is left out; None where it is kept."""
        if self.dates is not None and not problem.date:
            return NO_DATE
        if self.dates is not None and not self.dates[0] <= problem.date <= self.dates[1]:
            return OTHER_DATE
        name = problem.license.lower()
        if self.licenses and not any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.licenses):
            return OTHER_LICENSE
        return None


def parse_dates(words: str) -> tuple[str, str]:
    """The days of `2024-08-01..2025-05-01`. Raises UserError."""
    first, dots, last = words.partition("..")
    try:
        days = date.fromisoformat(first).isoformat(), date.fromisoformat(last).isoformat()
    except ValueError as error:
        raise UserError(f"got the dates {words!r}, expected FIRST..LAST such as 2024-08-01..2025-05-01") from error
    if not dots or days[0] > days[1]:
        raise UserError(f"got the dates {words!r}, whose first day is after the last; exchange them")
    return days


@dataclass(kw_only=True)
class Progress:
    """How far it is: what progress.json holds between two shards, and at the end problems.json."""

    sources: list[dict[str, str]]
    filters: dict[str, Any]
    file: int = 0
    """Of all files of all sources, the one that is read."""
    record: int = 0
    """Records of it that are done."""
    rejected_bytes: int = 0
    """Length of rejected.jsonl."""
    num_read: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    """Problems by source and license, as JSON of the two."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Records by kind: broken, or the reason for which they are left out."""
    ids: list[str] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Problems in the folder."""
        return sum(self.kept.values())

    def line(self) -> str:
        """What is read and kept so far, for people."""
        parts = [f"{self.num_read} records read", f"{self.num_kept} problems kept"]
        parts += [f"{count} {reason}" for reason, count in sorted(self.rejected.items(), key=lambda item: -item[1])]
        return ", ".join(parts)

    def table(self) -> list[str]:
        """Problems by origin and license, as lines of Markdown."""
        lines = ["| problems | origin | license |", "|---:|---|---|"]
        for key, count in sorted(self.kept.items(), key=lambda item: -item[1]):
            origin, license_ = json.loads(key)
            lines.append(f"| {count} | {origin or 'not stated'} | {license_ or 'not stated'} |")
        return lines


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
    progress = _begin(out, named, json.loads(json.dumps(wanted)))
    if progress is None:
        return _finished(out)
    with open(out / REJECTED, "ab") as rejected:
        rejected.truncate(progress.rejected_bytes)
        rejected.seek(progress.rejected_bytes)
        work = _Work(progress, out, rejected, shard_bytes=shard_bytes)
        try:
            for name, raw, next_at in _from(files, progress.file, progress.record):
                work.take(name, raw, next_at, filters=filters, skip_broken=skip_broken)
                say(f"{progress.line()} (file {progress.file + 1} of {len(files)})")
        finally:
            work.end_shard()
    if not progress.num_kept:
        raise UserError(f"of {progress.num_read} records none is kept: {progress.line()}; see {out / REJECTED}")
    manifest = {"format": FORMAT, "num_problems": progress.num_kept} | asdict(progress)
    for name in ("ids", "file", "record", "rejected_bytes"):
        del manifest[name]
    _write(out / MANIFEST, manifest)
    (out / PROGRESS).unlink()
    return progress


def _begin(out: Path, sources: list[dict[str, str]], filters: dict[str, Any]) -> Progress | None:
    """The progress to go on from; None where the folder is finished."""
    made = out / MANIFEST if (out / MANIFEST).is_file() else out / PROGRESS
    if not made.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out got {out}, which holds other things; give a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        progress = Progress(sources=sources, filters=filters)
        _write(out / PROGRESS, asdict(progress))
        return progress
    found = json.loads(made.read_text(encoding="utf-8"))
    for what, value in (("sources", sources), ("filters", filters)):
        if found[what] != value:
            raise UserError(
                f"{out} was begun with {what} {json.dumps(found[what])}, not {json.dumps(value)}; give the same, or "
                "another --out"
            )
    return None if made.name == MANIFEST else Progress(**found)


def _finished(out: Path) -> Progress:
    found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    return Progress(**{name: value for name, value in found.items() if name not in ("format", "num_problems")})


def _from(files: Sequence[tuple[str, Path]], file: int, record: int) -> Iterator[tuple[str, Raw, tuple[int, int]]]:
    """The records from one on, each with its format and with where the next one is."""
    for number in range(file, len(files)):
        name, path = files[number]
        for index, raw in enumerate(raw_records(path), start=1):
            if number > file or index > record:
                yield name, raw, (number, index)


class _Work:
    """Puts one record after another into the shard that is open, or into the list of the rejected."""

    def __init__(self, progress: Progress, out: Path, rejected: BinaryIO, *, shard_bytes: int) -> None:
        self._progress, self._out, self._file, self._shard_bytes = progress, out, rejected, shard_bytes
        self._ids = set(progress.ids)
        self._shard: ShardWriter | None = None

    def take(self, name: str, raw: Raw, next_at: tuple[int, int], *, filters: Filters, skip_broken: bool) -> None:
        """Raises UserError: the record is broken, and broken ones are not skipped."""
        progress = self._progress
        try:
            kind = reason = self._keep(name, raw.record, filters)
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
        if self._shard is not None and self._shard.num_bytes >= self._shard_bytes:
            self.end_shard()

    def _keep(self, name: str, record: dict[str, Any] | ValueError, filters: Filters) -> str:
        """Writes the problem. Empty, or the reason why not. Raises LeftOutError and ValueError as readers do."""
        if isinstance(record, ValueError):
            raise record
        fields = READERS[name](record)
        problem, solutions = parse_problem(fields), parse_solutions(fields)
        if problem.problem_id in self._ids:
            return DUPLICATE
        if reason := filters.reason(problem):
            return reason
        if self._shard is None:
            self._shard = ShardWriter(self._out, len(self._progress.shards))
        self._shard.add(problem, solutions)
        self._ids.add(problem.problem_id)
        origin = json.dumps([problem.source, problem.license])
        self._progress.kept[origin] = self._progress.kept.get(origin, 0) + 1
        return ""

    def end_shard(self) -> None:
        """Makes what is done so far last."""
        if self._shard is not None:
            self._progress.shards.append(self._shard.close())
            self._shard = None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._progress.rejected_bytes, self._progress.ids = self._file.tell(), sorted(self._ids)
        _write(self._out / PROGRESS, asdict(self._progress))


def _write(path: Path, value: dict[str, Any]) -> None:
    """The file as a whole, or as it was."""
    beside = path.with_name(path.name + ".partial")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
