"""The four configs of DeepCoder-Preview-Dataset, the training set that NousCoder names.

In: their records: problem, tests (JSON in text, another shape in each config), and of lcbv5 starter_code and metadata.
Out: records of our format. Source: dataset card of agentica-org/DeepCoder-Preview-Dataset, and the reward code of
agentica-project/rllm for how each shape is meant.
"""

from __future__ import annotations

from typing import Any

from nouscoder_jax.data.readers import synthetic1
from nouscoder_jax.data.readers.fields import (
    LeftOutError,
    Record,
    accepted,
    call_test,
    decoded,
    method,
    problem,
    shown,
    stdin_test,
    text,
    unnamed_id,
)
from nouscoder_jax.data.readers.taco import tests_of

LICENSE = "MIT (DeepCoder); statements belong to the platforms they come from"


def primeintellect(record: Record) -> dict[str, Any]:
    """Tests as a list of {type, fn_name, input, output}."""
    fn_name, tests = synthetic1.tests_of(decoded(record, "tests", list) or [])
    return _converted(record, "primeintellect", fn_name, tests)


def taco(record: Record) -> dict[str, Any]:
    """Tests as {"inputs": [...], "outputs": [...], "fn_name": optional}."""
    tests = decoded(record, "tests", dict) or {}
    if not tests:
        raise LeftOutError("no tests")
    fn_name = text(tests, "fn_name", default="") or None
    return _converted(record, "taco", fn_name, tests_of(tests, fn_name))


def lcbv5(record: Record) -> dict[str, Any]:
    """Tests as a list of {input, output, testtype, metadata}, a function's in LiveCodeBench's encoding."""
    cases = decoded(record, "tests", list) or []
    kinds = {case.get("testtype") if isinstance(case, dict) else shown(case) for case in cases}
    if len(kinds) > 1 or not kinds <= {"stdin", "functional"}:
        raise ValueError(f"the tests are of types {sorted(map(str, kinds))}, expected all stdin or all functional")
    if kinds != {"functional"}:
        return _converted(record, "lcbv5", None, [stdin_test(case.get("input"), case.get("output")) for case in cases])
    about = decoded(record, "metadata", dict) or decoded(cases[0], "metadata", dict) or {}
    fn_name = method(text(about, "func_name"), text(record, "starter_code", default=""))
    tests = [call_test(case.get("input"), case.get("output"), encoding="lines") for case in cases]
    return _converted(record, "lcbv5", fn_name, tests)


def codeforces(record: Record) -> dict[str, Any]:
    """Tests as a list of {input, output}, all of programs."""
    cases = decoded(record, "tests", list) or []
    if not all(isinstance(case, dict) for case in cases):
        raise ValueError(f"the field 'tests' is {shown(cases)}, expected a list of objects")
    return _converted(record, "codeforces", None, [stdin_test(case.get("input"), case.get("output")) for case in cases])


def _converted(record: Record, config: str, fn_name: str | None, tests: list[dict[str, str]]) -> dict[str, Any]:
    statement, starter_code = text(record, "problem"), text(record, "starter_code", default="")
    programs = record.get("solutions")
    return problem(
        unnamed_id(f"deepcoder-{config}", statement, starter_code),
        source=f"agentica-org/DeepCoder-Preview-Dataset:{config}",
        license=LICENSE,
        statement=synthetic1.bare(statement) if config == "primeintellect" else statement,
        tests=tests,
        checker="exact" if fn_name else "lines" if config == "lcbv5" else "tokens",
        fn_name=fn_name,
        starter_code=starter_code,
        solutions=accepted(programs if isinstance(programs, list) else [programs] if programs else None),
    )
