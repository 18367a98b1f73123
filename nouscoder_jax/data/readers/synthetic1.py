"""PrimeIntellect's verifiable coding problems, of SYNTHETIC-1.

In: its records: prompt, gold_standard_solution, metadata, verification_info = {"language", "test_cases": [{type,
fn_name, input, output}]}, the last two objects or JSON in text. Out: records of our format. Source: dataset card of
PrimeIntellect/verifiable-coding-problems.
"""

from __future__ import annotations

import re
from typing import Any

from nouscoder_jax.data.readers.fields import (
    LeftOutError,
    Record,
    accepted,
    call_test,
    decoded,
    mebibytes,
    problem,
    seconds,
    shown,
    stdin_test,
    text,
)

LICENSE = "Apache-2.0 (SYNTHETIC-1); statements belong to the platforms they come from"
_ASKS = re.compile(r"\ASolve the following coding problem using the programming language python:\s*")
_ENDS = re.compile(
    r"\s*The input will be (?:given via|stdin).{0,80}?(?:stdout)(?: by your code)?\.?\s*"
    r"Now solve the problem (?:by providing|and return) the code\.\s*\Z"
)
_FENCED = re.compile(r"\A\s*```(?:python3?|py)?[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)


def synthetic1(record: Record) -> dict[str, Any]:
    """A record of PrimeIntellect/verifiable-coding-problems. LeftOutError: it asks for another language than Python."""
    info = decoded(record, "verification_info", dict) or {}
    language = info.get("language")
    if language not in (None, "python", "python3"):
        raise LeftOutError(f"language {language}")
    about = decoded(record, "metadata", dict) or {}
    fn_name, tests = tests_of(info.get("test_cases"))
    gold = text(record, "gold_standard_solution", default="")
    fenced = _FENCED.match(gold)
    return problem(
        f"synthetic1/{text(record, 'problem_id')}",
        source="PrimeIntellect/verifiable-coding-problems",
        license=LICENSE,
        statement=bare(text(record, "prompt")),
        tests=tests,
        checker="exact" if fn_name else "tokens",
        fn_name=fn_name,
        platform=text(record, "source", default=""),
        difficulty=str(about.get("difficulty") or ""),
        url=str(about.get("problem_url") or ""),
        time_limit_s=seconds(about.get("time_limit")),
        memory_limit_mb=mebibytes(about.get("memory_limit")),
        solutions=accepted([fenced[1] if fenced else gold] if gold.strip() else []),
    )


def bare(prompt: str) -> str:
    """The statement without what the set says around each: prompts are made by data/prompts.py."""
    return _ENDS.sub("", _ASKS.sub("", prompt))


def tests_of(cases: object) -> tuple[str | None, list[dict[str, str]]]:
    """The function asked for, None for a program, and the tests."""
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise ValueError(f"the test cases are {shown(cases)}, expected a list of objects")
    kinds = {case.get("type") for case in cases}
    names = {case.get("fn_name") or None for case in cases}
    if len(kinds | set()) > 1 or len(names) > 1:
        raise ValueError(f"the test cases are of types {sorted(map(str, kinds))}, functions {sorted(map(str, names))}")
    if not cases:
        return None, []
    kind, fn_name = kinds.pop(), names.pop()
    if kind == "stdin_stdout":
        return None, [stdin_test(case.get("input"), case.get("output")) for case in cases]
    if kind == "function_call" and isinstance(fn_name, str):
        return fn_name, [call_test(case.get("input"), case.get("output"), encoding="wrapped") for case in cases]
    raise ValueError(f"a test case has type {kind!r} and fn_name {fn_name!r}, expected stdin_stdout or function_call")
