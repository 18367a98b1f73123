"""Tests of function problems as other sets encode them, made into this format's.

In: a test's input and output as a set has them, the name of its encoding. Out: TestCase: a JSON list of positional
arguments, a JSON value. Which encoding a set uses is known of the set and never guessed from a test.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from typing import Any

from nouscoder_jax.types import TestCase


def function_test(given: Any, expected: Any, *, encoding: str, parameters: Sequence[str]) -> TestCase:
    """The test in this format. `parameters`: the function's, for arguments by name.

    lines: one JSON value a line, output a JSON value (LiveCodeBench). object: arguments by name, output a JSON value.
    wrapped: a JSON list of arguments, output a list of one value (APPS, TACO). python: a literal list or tuple of
    arguments, output a literal. lines or wrapped: text is as in lines, a list as in wrapped, the input and the output
    each by itself (NousResearch/RLVR_Coding_Problems). Raises ValueError: what it got and expected.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"the encoding is {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    try:
        arguments, value = ENCODINGS[encoding](given, expected, parameters)
        return TestCase(input=json.dumps(arguments, allow_nan=False), expected=json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        shown = f"{str(given)[:60]!r} -> {str(expected)[:60]!r}"
        raise ValueError(f"a test is {shown}, expected the encoding {encoding!r}: {error}") from error


def _lines(given: Any, expected: Any, parameters: Sequence[str]) -> tuple[list[Any], Any]:
    if not isinstance(given, str):
        raise ValueError("the input is no text")
    return [json.loads(line) for line in given.split("\n") if line.strip()], json.loads(expected)


def _lines_or_wrapped(given: Any, expected: Any, parameters: Sequence[str]) -> tuple[list[Any], Any]:
    if isinstance(given, str):
        given = [json.loads(line) for line in given.split("\n") if line.strip()]
    if isinstance(expected, str):
        expected = [json.loads(expected)]
    return _wrapped(given, expected, parameters)


def _object(given: Any, expected: Any, parameters: Sequence[str]) -> tuple[list[Any], Any]:
    named = _decoded(given)
    if not isinstance(named, dict) or set(named) != set(parameters):
        raise ValueError(f"the arguments are not an object of {', '.join(parameters)}")
    return [named[name] for name in parameters], _decoded(expected)


def _wrapped(given: Any, expected: Any, parameters: Sequence[str]) -> tuple[list[Any], Any]:
    arguments, values = _decoded(given), _decoded(expected)
    if not isinstance(arguments, list) or not isinstance(values, list) or len(values) != 1:
        raise ValueError("not a list of arguments and a list of one value")
    return arguments, values[0]


def _python(given: Any, expected: Any, parameters: Sequence[str]) -> tuple[list[Any], Any]:
    arguments = ast.literal_eval(given)
    if not isinstance(arguments, (list, tuple)):
        raise ValueError("the arguments are no list or tuple")
    return list(arguments), ast.literal_eval(expected)


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


ENCODINGS: dict[str, Callable[[Any, Any, Sequence[str]], tuple[list[Any], Any]]] = {
    "lines": _lines,
    "lines or wrapped": _lines_or_wrapped,
    "object": _object,
    "wrapped": _wrapped,
    "python": _python,
}
