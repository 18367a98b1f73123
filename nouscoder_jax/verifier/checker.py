"""Whether an output is the expected one, decided on the host from bytes.

In: expected text, the bytes that the program printed, a Comparison. Out: None where they agree, else a line for people.
Nothing here can raise or take long on what a program chose to print: sizes are bounded by the sandbox's output limit,
numbers are plain ASCII of bounded length (`Decimal` and `float` alone would take full-width digits, `1_2` and `nan`).
"""

from __future__ import annotations

import json
import math
import re

from nouscoder_jax.types import Comparison

_NUMBER = re.compile(rb"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_SHOWN_CHARS = 60
_MAX_INT_DIGITS = 4000


def mismatch(expected: str, actual: bytes, comparison: Comparison) -> str | None:
    """None where stdout agrees with the expected text.

    exact: lines are equal after blanks at their ends and empty lines at the end are dropped. tokens: blank-separated
    tokens are equal. float: as tokens, and two numbers also agree within the tolerance: |a - e| <= abs or
    |a - e| <= rel * |e|.
    """
    wanted = expected.encode("utf-8", "surrogatepass")
    if comparison.ignore_case:
        wanted, actual = wanted.lower(), actual.lower()
    if comparison.kind == "exact":
        return _first_difference("line", _lines(wanted), _lines(actual), comparison)
    return _first_difference("token", wanted.split(), actual.split(), comparison)


def _lines(data: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in data.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(what: str, wanted: list[bytes], actual: list[bytes], comparison: Comparison) -> str | None:
    if wanted == actual:
        return None
    for number, (left, right) in enumerate(zip(wanted, actual, strict=False), start=1):
        if left != right and not (comparison.kind == "float" and _close(left, right, comparison)):
            return f"{what} {number}: expected {_shown(left)}, got {_shown(right)}"
    if len(wanted) != len(actual):
        return f"expected {len(wanted)} {what}s, got {len(actual)}"
    return None


def _close(wanted: bytes, actual: bytes, comparison: Comparison) -> bool:
    if not (_NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(actual)):
        return False
    return _near(float(wanted), float(actual), comparison)


def _near(wanted: float, actual: float, comparison: Comparison) -> bool:
    if not (math.isfinite(wanted) and math.isfinite(actual)):
        return False
    difference = abs(actual - wanted)
    return difference <= comparison.abs_tolerance or difference <= comparison.rel_tolerance * abs(wanted)


def value_mismatch(expected: str, actual: bytes, comparison: Comparison) -> str | None:
    """None where the JSON that a function returned agrees with the expected JSON value.

    int and float of equal value agree (2 and 2.0), true agrees with 1, as in LiveCodeBench; lists compare item by item,
    objects without order. Numbers agree within the tolerance where the comparison is float. Text is compared as it is.
    """
    if not actual:
        return "the function returned nothing: the program ended before it"
    try:
        left, right = _parse(expected), _parse(actual.decode("utf-8"))
        if _same(left, right, comparison):
            return None
    except (ValueError, RecursionError):
        return "the returned value is no JSON that can be compared"
    return f"expected {_shown(expected.encode('utf-8', 'replace'))}, got {_shown(actual)}"


def _parse(text: str) -> object:
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _MAX_INT_DIGITS else ("int", digits))


def _same(left: object, right: object, comparison: Comparison) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same(a, b, comparison) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key], comparison) for key in left)
    if comparison.kind == "float" and isinstance(left, (int, float)) and isinstance(right, (int, float)):
        try:
            return left == right or _near(float(left), float(right), comparison)
        except OverflowError:
            return False
    if comparison.ignore_case and isinstance(left, str) and isinstance(right, str):
        return left.lower() == right.lower()
    return left == right


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
