"""What the readers of all sets share: fields asked for by name, limits with units, tests of two lists.

In: raw records. Out: plain values; ValueError that says what it got and expected.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nouscoder_jax.data.encodings import function_test

Record = Mapping[str, Any]
Reader = Callable[[Record], dict[str, Any]]

_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0}
_SECONDS |= {"ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "milliseconds": 1e-3}
_MIB = {"": 1.0, "mb": 1.0, "mib": 1.0, "megabyte": 1.0, "megabytes": 1.0, "gb": 1024.0, "gib": 1024.0}
_MIB |= {"gigabyte": 1024.0, "gigabytes": 1024.0, "kb": 1 / 1024, "kib": 1 / 1024, "kilobytes": 1 / 1024}
_MIB |= {"bytes": 2.0**-20}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\.?\s*")


class LeftOutError(Exception):
    """A record that is as its set has it and of no use here, such as a problem without tests. The text is the reason,
    the same words for all of a kind: they are counted by it."""


def text(record: Record, name: str, *, default: str | None = None) -> str:
    """The text of a field; `default` where there is none."""
    value = record.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"the field {name!r} is {shown(value)}, expected text")
    return value


def decoded(record: Record, name: str, *types: type) -> Any:
    """The value of a field that is JSON in text, or that value itself; None where it is null, missing or empty."""
    value = record.get(name)
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the field {name!r} is {shown(value)}, expected JSON ({error})") from error
    if value is not None and not isinstance(value, types):
        wanted = " or ".join(
            {"dict": "an object", "list": "a list"}.get(kind.__name__, kind.__name__) for kind in types
        )
        raise ValueError(f"the field {name!r} is {shown(value)}, expected {wanted}")
    return value


def seconds(value: object) -> float | None:
    """CPU seconds of a limit: a number, `2.0 seconds`, `1500 ms`, {"seconds": 1, "nanos": 500000000}; None: none."""
    if isinstance(value, Mapping):
        parts = [value.get("seconds") or 0, (value.get("nanos") or 0) / 1e9]
        return _number(sum(parts), value, "a time limit", _SECONDS)
    return _number(value, value, "a time limit", _SECONDS)


def mebibytes(value: object) -> int | None:
    """MiB of a limit: a number, `256 megabytes`, `0.5 GB`; None: none."""
    number = _number(value, value, "a memory limit", _MIB)
    return None if number is None else max(1, round(number))


def _number(value: object, whole: object, what: str, units: Mapping[str, float]) -> float | None:
    if value is None or value in ("", "None", "null"):
        return None
    if isinstance(value, str):
        found = _QUANTITY.fullmatch(value)
        unit = units.get(found[2].lower()) if found else None
        value = float(found[1]) * unit if found and unit else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{what} is {shown(whole)}, expected a number and a unit such as {next(filter(None, units))!r}"
        )
    return float(value) or None


def paired(inputs: object, outputs: object) -> list[tuple[Any, Any]]:
    """Tests of a list of inputs and a list of outputs."""
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        counts = [len(part) if isinstance(part, list) else shown(part) for part in (inputs, outputs)]
        raise ValueError(f"inputs and outputs are {counts[0]} and {counts[1]}, expected two lists of one length")
    return list(zip(inputs, outputs, strict=True))


def stdin_test(given: object, expected: object) -> dict[str, str]:
    """A test of a program: text, or a list of lines as some sets have it."""
    return {"input": _lines(given, "input"), "output": _lines(expected, "output")}


def _lines(value: object, what: str) -> str:
    if isinstance(value, list) and all(isinstance(line, (str, int, float)) for line in value):
        return "".join(f"{line}\n" for line in value)
    if not isinstance(value, str):
        raise ValueError(f"a test's {what} is {shown(value)}, expected text or a list of lines")
    return value


def call_test(given: Any, expected: Any, *, encoding: str, parameters: Sequence[str] = ()) -> dict[str, str]:
    """A test of a function, by data/encodings.py."""
    test = function_test(given, expected, encoding=encoding, parameters=parameters)
    return {"input": test.input, "output": test.expected}


def method(fn_name: str, starter_code: str) -> str:
    """The name to call: `Solution.name` where the starter code has that class."""
    in_class = "class Solution" in starter_code and "." not in fn_name
    return f"Solution.{fn_name}" if in_class else fn_name


def accepted(programs: object) -> list[dict[str, str]]:
    """Programs of a list that its set calls right. Null: none."""
    if programs is None:
        return []
    if not isinstance(programs, list) or not all(isinstance(code, str) for code in programs):
        raise ValueError(f"the field 'solutions' is {shown(programs)}, expected a list of programs")
    return [{"language": "python3", "label": "accepted", "code": code} for code in programs]


def unnamed_id(prefix: str, *parts: str) -> str:
    """An id for a problem of a set without ids: of what it says, so that it is the same in every version of a file."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}/{digest[:16]}"


def problem(
    problem_id: str,
    *,
    source: str,
    license: str,
    statement: str,
    tests: list[dict[str, str]],
    checker: str,
    fn_name: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """An object of data/problems.py. Raises LeftOutError: it has no tests or no statement."""
    if not tests:
        raise LeftOutError("no tests")
    if not statement.strip():
        raise LeftOutError("no statement")
    return {
        "id": problem_id,
        "source": source,
        "license": license,
        "statement": statement,
        "io": "function" if fn_name else "stdin",
        "fn_name": fn_name,
        "checker": checker,
        "tests": tests,
        **{name: value for name, value in fields.items() if value not in (None, "", [])},
    }


def shown(value: object) -> str:
    """A value in an error message."""
    if value is None:
        return "missing or null"
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}..."
