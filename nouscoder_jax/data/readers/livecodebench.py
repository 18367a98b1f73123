"""LiveCodeBench's code generation problems, all releases, full and lite.

In: its records. Public tests are JSON in text; private ones too, or that text pickled, compressed and in base64, which
is read without running anything. Out: records of our format. Source: livecodebench/code_generation_lite and the loader
of LiveCodeBench/LiveCodeBench.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

from nouscoder_jax.data.readers.fields import Record, call_test, decoded, method, problem, shown, stdin_test, text

LICENSE = "CC (LiveCodeBench, version not stated); statements belong to the platforms they come from"
TIME_LIMIT_S = 6.0
"""LiveCodeBench's default for a test."""
_OF_TEXT = (
    "PROTO",
    "FRAME",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "MEMOIZE",
    "PUT",
    "BINPUT",
    "STOP",
)
"""Operations of a pickle that is one text."""
MOST_BYTES = 2**30
"""Private tests that would unpack to more are refused: a small text can name any size."""


def livecodebench(record: Record) -> dict[str, Any]:
    """A record of livecodebench/code_generation or code_generation_lite."""
    tests = [*(decoded(record, "public_test_cases", list) or []), *_private(text(record, "private_test_cases"))]
    kinds = {case.get("testtype") if isinstance(case, dict) else shown(case) for case in tests}
    if len(kinds) > 1 or not kinds <= {"stdin", "functional"}:
        raise ValueError(f"the tests are of types {sorted(map(str, kinds))}, expected all stdin or all functional")
    starter_code, fn_name = text(record, "starter_code", default=""), None
    if kinds == {"functional"}:
        fn_name = method(text(decoded(record, "metadata", dict) or {}, "func_name"), starter_code)
    return problem(
        f"livecodebench/{text(record, 'platform')}/{text(record, 'question_id')}",
        source="livecodebench/code_generation_lite",
        license=LICENSE,
        statement=text(record, "question_content"),
        tests=[
            call_test(case.get("input"), case.get("output"), encoding="lines")
            if fn_name
            else stdin_test(case.get("input"), case.get("output"))
            for case in tests
        ],
        checker="exact" if fn_name else "lines",
        fn_name=fn_name,
        starter_code=starter_code,
        time_limit_s=TIME_LIMIT_S,
        title=text(record, "question_title", default=""),
        platform=text(record, "platform"),
        difficulty=text(record, "difficulty", default=""),
        date=str(record.get("contest_date") or "")[:10],
    )


def _private(packed: str) -> list[Any]:
    try:
        tests = json.loads(packed)
    except ValueError:
        tests = json.loads(_unpickled(_unpacked(packed)))
    except RecursionError as error:
        raise ValueError("the private tests are nested too deep") from error
    if not isinstance(tests, list):
        raise ValueError(f"the private tests are {shown(tests)}, expected a list")
    return tests


def _unpacked(packed: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(
            f"the private tests are {shown(packed)}, expected JSON, or base64 of zlib ({error})"
        ) from error
    if not unpacker.eof:
        raise ValueError(f"the private tests are cut, or unpack to more than {MOST_BYTES} bytes")
    return data


def _unpickled(data: bytes) -> str:
    """The one text of a pickle. Its operations are read and not run: a pickle can call anything, and fill memory with
    nothing."""
    texts = []
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name not in _OF_TEXT:
                raise ValueError(f"an operation {operation.name}, with {shown(argument)}")
            texts += [argument] if "UNICODE" in operation.name else []
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"the private tests are no pickled text ({error})") from error
    if len(texts) != 1:
        raise ValueError(f"the private tests are {len(texts)} pickled texts, expected one")
    return str(texts[0])
