"""Kattis problem packages, the legacy format and that of 2023-07.

In: the folder of a package: problem.yaml, statement, data/sample and data/secret with *.in and *.ans, submissions. Out:
a record of our format. A package with an output validator of its own, or interaction, is left out: equality does not
judge it. Source: the Kattis problem package format.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nouscoder_jax.data.readers.fields import LeftOutError, Record, problem, seconds, shown
from nouscoder_jax.python_tree import parse

_LABELS = {
    "accepted": "accepted",
    "wrong_answer": "wrong_answer",
    "time_limit_exceeded": "time_limit",
    "run_time_error": "runtime_error",
    "rejected": "rejected",
}
"""Labels by the folder of submissions/."""
_TOLERANCES = {
    "float_tolerance": ("abs", "rel"),
    "float_absolute_tolerance": ("abs",),
    "float_relative_tolerance": ("rel",),
}
_STATEMENTS = ("problem_statement/problem", "statement/problem")


def package(record: Record) -> dict[str, Any]:
    """The package in record["folder"]."""
    folder = Path(record["folder"])
    about = _yaml(folder / "problem.yaml")
    validation = str(about.get("validation") or "default")
    kinds = set(_words(about.get("type"))) or {"pass-fail"}
    if "interactive" in validation or "interactive" in kinds:
        raise LeftOutError("interactive")
    if other := kinds - {"pass-fail", "scoring"}:
        raise LeftOutError(f"of type {min(other)}")
    if "custom" in validation or any((folder / name).is_dir() for name in ("output_validator", "output_validators")):
        raise LeftOutError("an output validator of its own")
    limits = about.get("limits") or {}
    if not isinstance(limits, dict):
        raise ValueError(f"the limits of problem.yaml are {shown(limits)}, expected names with values")
    checker, detail, with_case = _checker(folder, about)
    return problem(
        f"kattis/{folder.parent.name}/{folder.name}",
        source=f"Kattis package {folder.name}: {_source(about)}",
        license=str(about.get("license") or "unknown"),
        title=_title(about.get("name")),
        statement=_statement(folder),
        tests=[_test(path) for path in _inputs(folder)],
        checker=checker,
        checker_detail=detail,
        needs_case_insensitive=not with_case,
        time_limit_s=_time_limit(folder, limits),
        memory_limit_mb=limits.get("memory"),
        solutions=list(_submissions(folder)),
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no YAML ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is {shown(value)}, expected names with values")
    return value


def _source(about: dict[str, Any]) -> str:
    """Who made it, for the table of origins."""
    credits_ = about.get("credits") or {}
    named = [about.get("source"), about.get("author"), about.get("rights_owner")]
    named.append(credits_.get("authors") if isinstance(credits_, dict) else credits_)
    return "; ".join(str(value) for value in named if value) or "not stated"


def _title(name: object) -> str:
    """A name, or one of several by language."""
    names = name if isinstance(name, dict) else {"en": name}
    return str(names.get("en") or next(iter(names.values()), "") or "")


def _checker(folder: Path, about: dict[str, Any]) -> tuple[str, dict[str, float] | None, bool]:
    """The default validator's rule: tokens, without case unless asked, with a tolerance where one is given."""
    flags: list[str] = []
    for name in ("test_group.yaml", "testdata.yaml", "secret/test_group.yaml", "secret/testdata.yaml"):
        if (folder / "data" / name).is_file():
            given = _yaml(folder / "data" / name)
            flags += _words(given.get("output_validator_args") or given.get("output_validator_flags"))
    flags += _words(about.get("validator_flags"))
    detail: dict[str, float] = {}
    for flag, value in itertools.pairwise([*flags, ""]):
        for part in _TOLERANCES.get(flag, ()):
            detail[part] = float(value)
    if "space_change_sensitive" in flags:
        if detail:
            raise LeftOutError("a tolerance beside sensitivity to spaces")
        return "exact", None, "case_sensitive" in flags
    if detail:
        return f"float:{max(detail.values())!r}", detail, "case_sensitive" in flags
    return "tokens", None, "case_sensitive" in flags


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else str(value or "").split()


def _statement(folder: Path) -> str:
    """The statement in English, else in the first language there is."""
    found: dict[str, Path] = {}
    for start in _STATEMENTS:
        for path in sorted(folder.glob(f"{start}*")):
            parts = path.name.split(".")
            if parts[-1] in ("tex", "md"):
                found.setdefault(parts[1] if len(parts) == 3 else "en", path)
    if not found:
        raise LeftOutError("no statement")
    return found["en" if "en" in found else min(found)].read_text(encoding="utf-8")


def _inputs(folder: Path) -> list[Path]:
    return [path for part in ("sample", "secret") for path in sorted((folder / "data" / part).rglob("*.in"))]


def _test(path: Path) -> dict[str, str]:
    answer = path.with_suffix(".ans")
    if not answer.is_file():
        raise ValueError(f"data/{path.parent.name}/{path.name} has no {answer.name} beside it")
    return {"input": path.read_bytes().decode(), "output": answer.read_bytes().decode()}


def _time_limit(folder: Path, limits: dict[str, Any]) -> float | None:
    stated = limits.get("time_limit")
    if stated is None and (folder / ".timelimit").is_file():
        stated = (folder / ".timelimit").read_text(encoding="utf-8").strip()
    return seconds(stated)


def _submissions(folder: Path) -> Iterator[dict[str, str]]:
    for part, label in _LABELS.items():
        for path in sorted((folder / "submissions" / part).glob("*.py")):
            code = path.read_text(encoding="utf-8", errors="replace")
            if parse(code) is not None:  # Python 2's are not programs here
                yield {"language": "python3", "label": label, "code": code}
