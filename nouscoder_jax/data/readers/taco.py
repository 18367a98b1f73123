"""TACO, TACO-verified and APPS.

In: their records; question, solutions and input_output are text, the last two JSON: {"inputs": [...], "outputs":
[...], "fn_name": optional}. Out: records of our format. A function's inputs are lists of arguments and its outputs
lists of one value; a program's may be lists of lines. Source: dataset cards of BAAI/TACO and codeparrot/apps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nouscoder_jax.data.readers.fields import (
    LeftOutError,
    Record,
    accepted,
    call_test,
    decoded,
    mebibytes,
    method,
    paired,
    problem,
    seconds,
    shown,
    stdin_test,
    text,
    unnamed_id,
)

TACO_LICENSE = "Apache-2.0 (TACO); statements belong to the platforms they come from"
APPS_LICENSE = "MIT (APPS); statements belong to the platforms they come from"


def taco(record: Record) -> dict[str, Any]:
    """A record of BAAI/TACO or likaixin/TACO-verified; neither has ids."""
    statement, starter_code = text(record, "question"), text(record, "starter_code", default="")
    return _converted(
        record,
        unnamed_id("taco", statement, starter_code),
        source="BAAI/TACO",
        license=TACO_LICENSE,
        platform=text(record, "source", default=""),
        date=_day(record.get("date")),
        time_limit_s=seconds(record.get("time_limit")),
        memory_limit_mb=mebibytes(record.get("memory_limit")),
    )


def apps(record: Record) -> dict[str, Any]:
    """A record of codeparrot/apps, whose ids are numbers of one split."""
    number = record.get("problem_id", record.get("id"))
    if not isinstance(number, int):
        raise ValueError(f"the field 'problem_id' is {shown(number)}, expected a number")
    statement = text(record, "question")
    problem_id = f"{unnamed_id('apps', statement)}-{number}"
    return _converted(record, problem_id, source="codeparrot/apps", license=APPS_LICENSE)


def tests_of(in_outs: Mapping[str, Any], fn_name: str | None) -> list[dict[str, str]]:
    """The tests of an `input_output` object."""
    pairs = paired(in_outs.get("inputs"), in_outs.get("outputs"))
    if fn_name:
        return [call_test(given, expected, encoding="wrapped") for given, expected in pairs]
    return [stdin_test(given, expected) for given, expected in pairs]


def _converted(record: Record, problem_id: str, **fields: Any) -> dict[str, Any]:
    in_outs = decoded(record, "input_output", dict)
    if not in_outs:
        raise LeftOutError("no tests")
    starter_code = text(record, "starter_code", default="")
    fn_name = text(in_outs, "fn_name", default="")
    name = method(fn_name, starter_code) if fn_name else None
    return problem(
        problem_id,
        statement=text(record, "question"),
        tests=tests_of(in_outs, name),
        checker="exact" if name else "tokens",
        fn_name=name,
        starter_code=starter_code,
        difficulty=_word(record.get("difficulty")),
        title=_word(record.get("name")),
        url=_word(record.get("url")),
        solutions=accepted(decoded(record, "solutions", list)),
        **fields,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) and value not in ("None", "UNKNOWN_DIFFICULTY") else ""


def _day(value: object) -> str:
    """`2019-03-30` of a date with a time behind it; TACO has it of a part of its problems only."""
    return _word(value)[:10]
