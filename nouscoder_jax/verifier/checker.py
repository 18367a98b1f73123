"""Whether an output is the expected one, decided on the host from bytes.

In: expected text, the bytes that the program printed, a Comparison. Out: None where they agree, else a line for people.
Nothing here can raise or take long on what a program chose to print: sizes are bounded by the sandbox's output limit,
numbers are plain ASCII of bounded length (`Decimal` and `float` alone would take full-width digits, `1_2` and `nan`).
Problems with several right answers are not decided here but by their own program (verifier/verify.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from nouscoder_jax.types import Comparison

_NUMBER = re.compile(rb"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")
_PLAIN = re.compile(rb"(-?)(0|[1-9]\d{0,400})(?:\.(\d{1,400}))?")
_INTEGER = re.compile(rb"[+-]?\d{1,400}")
_NUMBERS = (int, float, Fraction)
_SHOWN_CHARS = 60
_MAX_INT_DIGITS = 4000


def mismatch(expected: str, actual: bytes, comparison: Comparison) -> str | None:
    """None where stdout agrees with the expected text.

    exact: lines are equal after blanks at their ends and empty lines at the end are dropped.
    lines: LiveCodeBench's rule (lcb_runner/evaluation/testing_util.py): as many lines, blanks around the output and
    around each line dropped, and two lines are equal or hold numbers only that are equal one by one as decimals.
    tokens: blank-separated tokens are equal.
    numbers: as tokens, and a number may have more or fewer zeros at the end of its fraction, `2.0` for `2` (but `007`
    is not `7`).
    float: as tokens, and two numbers also agree within the tolerance: |a - e| <= abs or |a - e| <= rel * |e|; two plain
    integers are compared exactly.
    """
    wanted = expected.encode("utf-8", "surrogatepass")
    if comparison.ignore_case:
        wanted, actual = wanted.lower(), actual.lower()
    if comparison.kind == "exact":
        return _first_difference("line", _lines(wanted), _lines(actual), _never)
    if comparison.kind == "lines":
        return _first_difference("line", _stripped(wanted), _stripped(actual), _equal_numbers)
    if comparison.kind == "tokens":
        return _first_difference("token", wanted.split(), actual.split(), _never)
    if comparison.kind == "numbers":
        return _first_difference("token", wanted.split(), actual.split(), _equal_but_for_zeros)
    return _first_difference("token", wanted.split(), actual.split(), lambda a, b: _close(a, b, comparison))


def _lines(data: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in data.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _stripped(data: bytes) -> list[bytes]:
    return [line.strip() for line in data.strip().split(b"\n")]


def _first_difference(
    what: str, wanted: list[bytes], actual: list[bytes], agree: Callable[[bytes, bytes], bool]
) -> str | None:
    if wanted == actual:
        return None
    for number, (left, right) in enumerate(zip(wanted, actual, strict=False), start=1):
        if left != right and not agree(left, right):
            return f"{what} {number}: expected {_shown(left)}, got {_shown(right)}"
    if len(wanted) != len(actual):
        return f"expected {len(wanted)} {what}s, got {len(actual)}"
    return None


def _never(wanted: bytes, actual: bytes) -> bool:
    return False


def _equal_but_for_zeros(wanted: bytes, actual: bytes) -> bool:
    """Whether two tokens are one number, with more or fewer zeros at the end of its fraction."""
    left, right = _PLAIN.fullmatch(wanted), _PLAIN.fullmatch(actual)
    if not (left and right):
        return False
    values = [(match[2], (match[3] or b"").rstrip(b"0")) for match in (left, right)]
    return values[0] == values[1] and (left[1] == right[1] or values[0] == (b"0", b""))


def _equal_numbers(wanted: bytes, actual: bytes) -> bool:
    """Whether two lines hold numbers only, and the same ones."""
    left, right = wanted.split(), actual.split()
    if len(left) != len(right) or not all(_NUMBER.fullmatch(token) for token in left + right):
        return False
    return all(Decimal(a.decode()) == Decimal(b.decode()) for a, b in zip(left, right, strict=True))


def _close(wanted: bytes, actual: bytes, comparison: Comparison) -> bool:
    if _INTEGER.fullmatch(wanted) and _INTEGER.fullmatch(actual):
        return int(wanted) == int(actual)
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
    objects without order. Numbers agree within the tolerance where the comparison is float and not both are integers.
    Text is compared as it is.
    """
    if not actual:
        return "the function returned nothing: the program ended before it"
    try:
        left, right = _parse(expected), _parse(actual.decode("utf-8"), object_hook=_fraction)
        if _same(left, right, comparison):
            return None
    except (ValueError, RecursionError):
        return "the returned value is no JSON that can be compared"
    return f"expected {_shown(expected.encode('utf-8', 'replace'))}, got {_shown(actual)}"


def _parse(text: str, object_hook: Callable[[dict[str, object]], object] | None = None) -> object:
    return json.loads(
        text,
        parse_int=lambda digits: int(digits) if len(digits) <= _MAX_INT_DIGITS else ("int", digits),
        object_hook=object_hook,
    )


def _fraction(value: dict[str, object]) -> object:
    """A Fraction or Decimal that a function returned (inside/values.py), else the object."""
    parts = value.get("__fraction__")
    if len(value) == 1 and isinstance(parts, list) and [type(part) for part in parts] == [int, int] and parts[1]:
        return Fraction(parts[0], parts[1])
    return value


def _same(left: object, right: object, comparison: Comparison) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same(a, b, comparison) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key], comparison) for key in left)
    if comparison.kind == "float" and isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
        if isinstance(left, int) and isinstance(right, int):
            return left == right
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
