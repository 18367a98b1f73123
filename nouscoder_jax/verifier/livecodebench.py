"""The verdict that LiveCodeBench's public harness gives, for figures beside published ones.

In: Problem, program text (or None), a Sandbox. Out: Verdict, which may accept what Python would not and the other way
round: public_harness.py says how programs run. Outputs are compared here; the sandbox gets inputs only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nouscoder_jax.config import VerifierConfig
from nouscoder_jax.types import Comparison, ExecutionStatus, Outcome, Problem, TestCase, Verdict
from nouscoder_jax.verifier.checker import mismatch
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, Sandbox

SECONDS = 6
"""Wall time of a test."""
_LINES = Comparison(kind="lines", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
_HARNESS = Path(__file__).with_name("public_harness.py")


async def verify_published(
    problem: Problem, program: str | None, *, sandbox: Sandbox, config: VerifierConfig
) -> Verdict:
    """Judges one program on all tests in one process, in the problem's order, up to the first failure.

    Tolerances, checkers, preludes and limits of the problem are not the harness's and do not count; the memory limit is
    the verifier's. Raises JudgeError.
    """
    tests = tuple(problem.tests)
    if program is None:
        return _verdict(Outcome.NO_PROGRAM, 0, tests, "no program in the completion")
    order = {"program": program, "fn_name": problem.fn_name, "inputs": [test.input for test in tests]}
    seconds = float((SECONDS + 1) * (len(tests) + 1) + 5)
    limits = Limits(
        cpu_s=seconds,
        wall_s=seconds,
        memory_mib=config.memory_limit_mib,
        output_mib=config.output_limit_mib,
        max_processes=config.max_processes,
    )
    try:
        async with sandbox.session(_HARNESS.read_text(encoding="utf-8"), fn_name=None, limits=limits) as session:
            execution = await session.run(json.dumps(order))
    except RunnerLostError as error:
        return _verdict(Outcome.RUNTIME_ERROR, 0, tests, f"ended its sandbox: {error}")
    ended = f"the process ended before it: {execution.detail or execution.status.value}"
    late = execution.status is ExecutionStatus.TIME_LIMIT
    passed, outcome, detail = _conclude(problem, tests, _lines(execution.stdout), ended=ended, late=late)
    return Verdict(
        outcome=outcome,
        tests_passed=passed,
        tests_total=len(tests),
        cpu_s=execution.cpu_s,
        peak_memory_mib=execution.peak_memory_mib,
        detail=detail,
    )


def _conclude(
    problem: Problem, tests: tuple[TestCase, ...], lines: list[dict[str, Any]], *, ended: str, late: bool
) -> tuple[int, Outcome, str]:
    for index, test in enumerate(tests):
        where = f"test {index + 1}: "
        if index >= len(lines):
            return index, Outcome.TIME_LIMIT if late else Outcome.RUNTIME_ERROR, where + ended
        line = lines[index]
        if "error" in line:
            outcome = Outcome.TIME_LIMIT if line.get("timeout") else Outcome.RUNTIME_ERROR
            return index, outcome, where + str(line["error"])
        if difference := _difference(problem, test, line.get("output")):
            return index, Outcome.WRONG_ANSWER, where + difference
    return len(tests), Outcome.ACCEPTED, ""


def _difference(problem: Problem, test: TestCase, output: Any) -> str | None:
    if problem.fn_name is None:
        return mismatch(test.expected, str(output).encode("utf-8", "surrogatepass"), _LINES)
    try:
        value = _value(output)
        value = list(value) if isinstance(value, tuple) else value
        same = bool(value == json.loads(test.expected))
    except (ValueError, TypeError, RecursionError, OverflowError):
        same = False
    return None if same else f"expected {test.expected[:60]}, got {json.dumps(output)[:60]}"


def _value(described: Any) -> Any:
    """The value that public_harness.described wrote; what it could not describe equals nothing."""
    if not isinstance(described, list):
        return described
    kind, inner = described
    if kind == "int":
        return int(inner, 16)
    if kind == "float":
        return float.fromhex(inner)
    if kind == "dict":
        return {_value(key): _value(item) for key, item in inner}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(map(_value, inner))
    return object()


def _lines(stdout: bytes) -> list[dict[str, Any]]:
    """The whole lines that are objects, up to the first that is none: a program can print there, too."""
    found: list[dict[str, Any]] = []
    for text in stdout.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        found.append(line)
    return found


def _verdict(outcome: Outcome, passed: int, tests: tuple[TestCase, ...], detail: str) -> Verdict:
    return Verdict(
        outcome=outcome, tests_passed=passed, tests_total=len(tests), cpu_s=0.0, peak_memory_mib=0.0, detail=detail
    )
