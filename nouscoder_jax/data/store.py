"""A folder of prepared problems, opened at once however large their tests are.

In: Problem and Solution, one after another. Out: a folder, and of it the problems again, whose tests are read from the
disk when they are asked for. The folder:

    problems.json               what is in it: sources, counts, the files with their hashes; written last, so that a
                                folder without it is not complete
    heads-00000.arrayrecord     a problem a record: all of it but its tests, as JSON
    tests-00000.arrayrecord     its tests and its labelled programs, as JSON; the same number of records

Both are ArrayRecord files, which Grain reads by index and whose blocks carry a hash of their own.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Comparison, Problem, Solution, TestCase

FORMAT = 1
MANIFEST = "problems.json"
SHARD_BYTES = 256 * 2**20
"""Of tests, before they are compressed: what is written again where writing was interrupted."""
_OPTIONS = "group_size:1,zstd:3"
_KEPT = 32
"""Problems whose tests stay in memory: those of the groups that are being judged."""


def content_hash(path: Path) -> str:
    """SHA-256 of a problem file; of a prepared folder that of what problems.json says of its files. Raises OSError."""
    if path.is_dir():
        shards = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["shards"]
        return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardWriter:
    """Two files of a shard, which have their names once they are whole."""

    def __init__(self, folder: Path, number: int) -> None:
        self._paths = [folder / f"{part}-{number:05d}.arrayrecord" for part in ("heads", "tests")]
        self._writers = [ArrayRecordWriter(str(_partial(path)), _OPTIONS) for path in self._paths]
        self.num_problems = self.num_tests = self.num_bytes = 0

    def add(self, problem: Problem, solutions: Sequence[Solution]) -> None:
        tests = [[test.input, test.expected] for test in problem.tests]
        body = json.dumps({"tests": tests, "solutions": [[one.label, one.code] for one in solutions]}).encode()
        head = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
        head |= {"tests": len(tests), "comparison": dataclasses.asdict(problem.comparison)}
        self._writers[0].write(json.dumps(head).encode())
        self._writers[1].write(body)
        self.num_problems += 1
        self.num_tests += len(tests)
        self.num_bytes += len(body)

    def close(self) -> dict[str, Any]:
        """Ends the files, gives them their names and returns the shard's line of problems.json."""
        line: dict[str, Any] = {"problems": self.num_problems, "tests": self.num_tests}
        for part, path, writer in zip(("heads", "tests"), self._paths, self._writers, strict=True):
            writer.close()
            with open(_partial(path), "rb+") as file:
                os.fsync(file.fileno())
            _partial(path).replace(path)
            line |= {f"{part}_file": path.name, f"{part}_bytes": path.stat().st_size}
            with open(path, "rb") as file:
                line[f"{part}_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        return line

    def discard(self) -> None:
        """Ends the files and deletes them."""
        for path, writer in zip(self._paths, self._writers, strict=True):
            writer.close()
            _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


class Store:
    """A prepared folder."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any] | None = None) -> None:
        """`manifest`: in place of the folder's own. Raises UserError: the folder is not complete, or a file of it is
        not the one that was written."""
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            self.manifest: dict[str, Any] = manifest or json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} has no {MANIFEST}: no problems were prepared in it, or not to the end; run "
                "scripts/prepare_data.py again, which goes on where it stopped"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is no JSON ({error}); copy the folder again") from error
        found = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r}, expected {FORMAT}; prepare it again")
        try:
            for shard in self.manifest["shards"]:
                for part in ("heads", "tests"):
                    _check_size(self.folder / shard[f"{part}_file"], shard[f"{part}_bytes"])
            self._firsts = [0, *itertools.accumulate(shard["problems"] for shard in self.manifest["shards"])]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r} is missing or odd); copy the folder again") from error
        self._readers: dict[Path, ArrayRecordReader] = {}
        self._kept_tests = functools.lru_cache(maxsize=_KEPT)(self._read_tests)

    def __len__(self) -> int:
        return self._firsts[-1]

    def problems(self) -> Iterator[Problem]:
        """All problems, in their order. Their tests stay on the disk."""
        for index in range(len(self)):
            head = self._read("heads", index)
            num_tests = head.pop("tests")
            head["comparison"] = Comparison(**head["comparison"])
            head["parameters"], head["derived"] = tuple(head["parameters"]), tuple(head["derived"])
            yield Problem(**head, tests=_StoredTests(self, index, num_tests))

    def solutions(self) -> Iterator[Solution]:
        """The labelled programs of all problems."""
        for index in range(len(self)):
            problem_id = self._read("heads", index)["problem_id"]
            for number, (label, code) in enumerate(self._read("tests", index)["solutions"]):
                yield Solution(problem_id=problem_id, solution_index=number, label=label, code=code)

    def tests(self, index: int) -> tuple[TestCase, ...]:
        """The tests of one problem. Raises UserError: the file is damaged."""
        return self._kept_tests(index)

    def _read_tests(self, index: int) -> tuple[TestCase, ...]:
        pairs = self._read("tests", index)["tests"]
        return tuple(TestCase(input=given, expected=expected) for given, expected in pairs)

    def _read(self, part: str, index: int) -> dict[str, Any]:
        number = bisect.bisect_right(self._firsts, index) - 1
        shard = self.manifest["shards"][number]
        path = self.folder / shard[f"{part}_file"]
        try:
            if path not in self._readers:
                reader = ArrayRecordReader(str(path))
                if reader.num_records() != shard["problems"]:  # a damaged index reads as an empty one
                    raise ValueError(f"it has {reader.num_records()} records, {shard['problems']} were written")
                self._readers[path] = reader
            return json.loads(self._readers[path].read([index - self._firsts[number]])[0])
        except (RuntimeError, IndexError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{path} is damaged at problem {index} ({reason}); copy the folder again") from error


class _StoredTests(Sequence[TestCase]):
    """The tests of one problem, read when they are asked for."""

    def __init__(self, store: Store, index: int, num_tests: int) -> None:
        self._store, self._index, self._num_tests = store, index, num_tests

    def __len__(self) -> int:
        return self._num_tests

    @overload
    def __getitem__(self, place: int) -> TestCase: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[TestCase]: ...
    def __getitem__(self, place: int | slice) -> TestCase | Sequence[TestCase]:
        return self._store.tests(self._index)[place]

    def __iter__(self) -> Iterator[TestCase]:
        return iter(self._store.tests(self._index))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._num_tests} tests in {self._store.folder}>"


def _check_size(file: Path, num_bytes: int) -> None:
    size = file.stat().st_size if file.is_file() else None
    if size != num_bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise UserError(f"{file} {found}, {num_bytes} were written; copy the folder again")
