"""Our own format: what data/problems.py documents, so that a file of it can go into a prepared folder; and such a file
whose function tests are encoded as another set has them.

In: its records. Out: them as they are, or with their function tests in this format's encoding.
"""

from __future__ import annotations

import functools
from typing import Any

from nouscoder_jax.data.encodings import ENCODINGS
from nouscoder_jax.data.readers.fields import (
    LeftOutError,
    Reader,
    Record,
    call_test,
    decoded,
    paired,
    shown,
    stdin_test,
)


def nouscoder(record: Record) -> dict[str, Any]:
    """The record itself. LeftOutError: it has no tests."""
    if record.get("tests") == []:
        raise LeftOutError("no tests")
    return dict(record)


def _encoded(record: Record, *, encoding: str) -> dict[str, Any]:
    """The record, a function's tests taken out of an encoding. Arguments by name have the order of the first test's
    where the record names no parameters."""
    found = nouscoder(record)
    tests, names = found.get("tests"), found.get("parameters") or []
    if isinstance(tests, dict):  # two lists, as APPS has them
        pairs = paired(tests.get("inputs"), tests.get("outputs"))
    elif isinstance(tests, list) and all(isinstance(test, dict) for test in tests):
        pairs = [(test.get("input"), test.get("output")) for test in tests]
    else:
        raise ValueError(f"the field 'tests' is {shown(tests)}, expected a list of objects, or of inputs and outputs")
    if not pairs:
        raise LeftOutError("no tests")
    if found.get("io") != "function":
        return found | {"tests": [stdin_test(*pair) for pair in pairs]}
    if encoding == "object" and not names:
        names = list(decoded({"a test's input": pairs[0][0]}, "a test's input", dict) or ())
    return found | {"tests": [call_test(*pair, encoding=encoding, parameters=names) for pair in pairs]}


ENCODED: dict[str, Reader] = {
    f"nouscoder-{name.replace(' ', '-')}": functools.partial(_encoded, encoding=name) for name in ENCODINGS
}
"""By the name of the format: the encoding is said, never guessed from a test."""
