"""LiveCodeBench's code generation problems, all releases, full and lite.

In: its records. Public tests are JSON in text; private ones too, or that text pickled, compressed and in base64, which
is read without running anything. Out: records of our format. Source: livecodebench/code_generation_lite and the loader
of LiveCodeBench/LiveCodeBench.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any, NoReturn

from nouscoder_jax.data.readers.fields import Record, call_test, decoded, method, problem, shown, stdin_test, text

LICENSE = "CC (LiveCodeBench, version not stated); statements belong to the platforms they come from"
TIME_LIMIT_S = 6.0
"""LiveCodeBench's default for a test."""
MOST_BYTES = 2**31
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


class _Text(pickle.Unpickler):
    """Reads plain values and nothing that has to be looked up or called."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it names the object {shown(pid)}")


def _unpickled(data: bytes) -> str:
    try:
        value = _Text(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise ValueError(f"the private tests are no pickled text ({type(error).__name__}: {error})") from error
    if not isinstance(value, str):
        raise ValueError(f"the private tests are a pickled {type(value).__name__}, expected text")
    return value
