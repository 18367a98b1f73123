"""Records of public sets as they lie on a disk or on the Hugging Face hub, one after another.

In: a source such as `taco=train.jsonl.gz`, `deepcoder-taco=hub:agentica-org/DeepCoder-Preview-Dataset:taco/train*` or
`kattis=packages/`. Out: raw records with the place they stand at, streamed: one line, a few rows of Parquet or one
package at a time.
"""

from __future__ import annotations

import fnmatch
import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.data.readers.formats import READERS
from nouscoder_jax.hub import find_dataset_files

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_ROWS = 8
"""Rows of a Parquet file that are read together: records of tests may be megabytes each. The file's own groups of rows
are decoded as a whole, so that memory follows the largest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the command line names: files, packages or a part of a data set on the hub, all in one format.

    Example:
        Source(format="taco", path="hub:BAAI/TACO:train/*")
    """

    format: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A record as its set has it. `record` is the reason where it could not even be read."""

    place: str
    """File and line, file and row, or folder."""
    record: dict[str, Any] | ValueError


def parse_source(words: str) -> Source:
    """The source that FORMAT=PATH names. Raises UserError."""
    name, equals, path = words.partition("=")
    if not equals or not path or name not in READERS:
        raise UserError(f"got the source {words!r}, expected FORMAT=PATH with one of {', '.join(sorted(READERS))}")
    return Source(format=name, path=path)


def find_files(source: Source) -> list[Path]:
    """The files, or package folders, of a source, in order. Raises UserError: there are none."""
    if source.path.startswith("hub:"):
        name, _, pattern = source.path.removeprefix("hub:").partition(":")
        wanted = [pattern or f"*{suffix}" for suffix in SUFFIXES]
        return find_dataset_files(name, lambda file: _matches(file, pattern), wanted)
    if any(mark in source.path for mark in "*?["):
        found = sorted(Path(found) for found in glob.glob(source.path))
        if source.format == "kattis":
            found = [folder for folder in found if (folder / "problem.yaml").is_file()]
        return _some(found, source.path)
    path = Path(source.path)
    if source.format == "kattis":
        found = sorted(file.parent for file in path.rglob("problem.yaml"))
        wanted = ["problem.yaml"]
    elif path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        wanted = [f"*{suffix}" for suffix in SUFFIXES]
    else:
        found, wanted = [path], []
        if not path.is_file():
            raise UserError(f"{path} does not exist; expected a file, a folder, or hub:OWNER/NAME[@REVISION][:PATTERN]")
    return _some(found, f"{path}/{' or '.join(wanted)}")


def _some(found: list[Path], wanted: str) -> list[Path]:
    if not found:
        raise UserError(f"there is no {wanted}; give another path")
    return found


def _matches(file: str, pattern: str) -> bool:
    return file.endswith(SUFFIXES) and (not pattern or fnmatch.fnmatch(file, pattern))


def raw_records(path: Path) -> Iterator[Raw]:
    """The records of one file or package, in order. Raises UserError: the file as a whole cannot be read."""
    if path.is_dir():
        yield Raw(place=str(path), record={"folder": str(path)})
    elif path.name.endswith(".parquet"):
        yield from _parquet(path)
    elif path.name.endswith(SUFFIXES):
        yield from _json_lines(path)
    else:
        raise UserError(f"{path} is none of *{', *'.join(SUFFIXES)}; convert it to one of them")


def _json_lines(path: Path) -> Iterator[Raw]:
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Raw(place=f"{path}, line {number}", record=_object(line))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no complete gzip file ({error}) after line {number}; copy it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _object(line: bytes) -> dict[str, Any] | ValueError:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"no JSON ({error})")
    return value if isinstance(value, dict) else ValueError(f"a JSON {type(value).__name__}, expected an object")


def _parquet(path: Path) -> Iterator[Raw]:
    try:
        import pyarrow  # here, not above: it is of the extra `data`, and few files need it
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise UserError(f"{path} needs pyarrow: pip install 'nouscoder-jax[data]'") from error
    number = 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield Raw(place=f"{path}, row {number}", record=row)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no complete Parquet file ({error}) after row {number}; copy it again") from error
