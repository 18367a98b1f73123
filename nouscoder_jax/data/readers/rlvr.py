"""NousResearch/RLVR_Coding_Problems, the set that NousCoder's environment loads, and its test set lcb_test.

In: its records: problem, problem_type ("func" or "stdin_stdout"), tests ({"input": [...], "output": [...]}, an object
or JSON in text), starter_code, fn_name, of lcb_test also difficulty. Out: records of our format. A function's input is
JSON values a line, or a list of arguments; its output JSON, or a list of one value. Source: NousResearch/atropos,
environments/code_execution_server.
"""

from __future__ import annotations

from typing import Any

from nouscoder_jax.data.readers.fields import (
    LeftOutError,
    Record,
    call_test,
    decoded,
    method,
    paired,
    problem,
    stdin_test,
    text,
    unnamed_id,
)

LICENSE = "not stated by the set; statements belong to the platforms they come from"


def rlvr(record: Record) -> dict[str, Any]:
    """A record of NousResearch/RLVR_Coding_Problems or NousResearch/lcb_test."""
    statement, starter_code = text(record, "problem"), text(record, "starter_code", default="")
    tests = decoded(record, "tests", dict)
    if not tests:
        raise LeftOutError("no tests")
    pairs = paired(tests.get("input"), tests.get("output"))
    kind = text(record, "problem_type")
    if kind not in ("func", "stdin_stdout"):
        raise ValueError(f"the field 'problem_type' is {kind!r}, expected 'func' or 'stdin_stdout'")
    fn_name = None
    if kind == "func":
        fn_name = method(text(record, "fn_name"), starter_code)
    return problem(
        unnamed_id("rlvr", statement, starter_code),
        source="NousResearch/RLVR_Coding_Problems",
        license=LICENSE,
        statement=statement,
        tests=[call_test(*pair, encoding="lines or wrapped") if fn_name else stdin_test(*pair) for pair in pairs],
        checker="exact" if fn_name else "lines",
        fn_name=fn_name,
        starter_code=starter_code,
        difficulty=text(record, "difficulty", default=""),
    )
