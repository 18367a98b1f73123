"""From one problem and one program to one verdict.

In: Problem, program text (or None), a Sandbox. Out: Verdict, or JudgeError when the judge failed as often as it may.
Inputs go into the sandbox, outputs come out, and the comparison happens here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

from nouscoder_jax.config import VerifierConfig
from nouscoder_jax.types import ExecutionStatus, JudgeError, Outcome, Problem, TestCase, Verdict
from nouscoder_jax.verifier.checker import mismatch, value_mismatch
from nouscoder_jax.verifier.checker_program import ProgramChecker, open_checker
from nouscoder_jax.verifier.prelude import with_prelude
from nouscoder_jax.verifier.sandbox import Execution, Limits, RunnerLostError, Sandbox, SandboxOutError

_FAILURES = {
    ExecutionStatus.EXCEPTION: Outcome.RUNTIME_ERROR,
    ExecutionStatus.SIGNALLED: Outcome.RUNTIME_ERROR,
    ExecutionStatus.TIME_LIMIT: Outcome.TIME_LIMIT,
    ExecutionStatus.MEMORY_LIMIT: Outcome.MEMORY_LIMIT,
    ExecutionStatus.OUTPUT_LIMIT: Outcome.OUTPUT_LIMIT,
}
_MAX_LOST = 1
GOT_CHARS = 1000
"""Kept of what a program printed in the first test that it failed."""


async def verify(
    problem: Problem,
    program: str | None,
    *,
    sandbox: Sandbox,
    config: VerifierConfig,
    stop_at_first_failure: bool,
) -> Verdict:
    """Judges one program, its hardest tests (longest input) first.

    A JudgeError is tried again in a new sandbox up to `config.max_retries` times and then raised; a SandboxOutError is
    raised at once. A sandbox that ends by itself while the program runs is tried once more, then counts against it.
    """
    if program is None:
        return _verdict(problem, Outcome.NO_PROGRAM, [], 0, "no program in the completion")
    lost = failures = 0
    while True:
        try:
            return await _judge(problem, program, sandbox, config, stop_at_first_failure)
        except RunnerLostError as error:
            lost += 1
            if lost > _MAX_LOST:
                return _verdict(problem, Outcome.RUNTIME_ERROR, [], 0, f"ended its sandbox {lost} times: {error}")
        except SandboxOutError:
            raise  # nobody's failure: the judge waits, or goes elsewhere
        except JudgeError:
            failures += 1
            if failures > config.max_retries:
                raise


async def _judge(
    problem: Problem, program: str, sandbox: Sandbox, config: VerifierConfig, stop_at_first_failure: bool
) -> Verdict:
    executions: list[Execution] = []
    passed, outcome, detail, failed = 0, Outcome.ACCEPTED, "", (None, "")
    source = with_prelude(problem.prelude, program)
    # Those of a prepared folder are read from the disk: other verdicts do not wait for that.
    tests = problem.tests if isinstance(problem.tests, tuple) else await asyncio.to_thread(tuple, problem.tests)
    async with contextlib.AsyncExitStack() as checkers, contextlib.AsyncExitStack() as sessions:
        session = checker = None
        for number, test in hardest_first(tests):
            if session is None or not session.clean:  # what a program leaves behind is no reason not to judge it
                await sessions.aclose()
                session = await sessions.enter_async_context(
                    sandbox.session(source, fn_name=call_of(problem), limits=limits_of(problem, config))
                )
            execution = await session.run(test.input)
            executions.append(execution)
            if problem.comparison.kind == "program" and checker is None and execution.status is ExecutionStatus.EXITED:
                checker = await checkers.enter_async_context(open_checker(problem, sandbox=sandbox, config=config))
            result, reason = await conclude(problem, test, execution, checker)
            if result is Outcome.ACCEPTED:
                passed += 1
                continue
            if outcome is Outcome.ACCEPTED:
                outcome, detail = result, f"test {number}: {reason}"
                failed = (number, execution.stdout[: 4 * GOT_CHARS].decode("utf-8", "replace")[:GOT_CHARS])
            if stop_at_first_failure:
                break
    failed_test, got = failed
    return replace(_verdict(problem, outcome, executions, passed, detail), failed_test=failed_test, got=got)


async def conclude(
    problem: Problem, test: TestCase, execution: Execution, checker: ProgramChecker | None
) -> tuple[Outcome, str]:
    """What one execution means, and why. `checker`: for problems with several right answers. Raises JudgeError."""
    if execution.status is not ExecutionStatus.EXITED:
        return _FAILURES[execution.status], execution.detail
    if checker is not None:
        difference = await checker.mismatch(test, execution.stdout)
    else:
        compare = value_mismatch if problem.fn_name else mismatch
        difference = compare(test.expected, execution.stdout, problem.comparison)
    return (Outcome.ACCEPTED, "") if difference is None else (Outcome.WRONG_ANSWER, difference)


def call_of(problem: Problem) -> str | None:
    """The function to call and how its arguments and result are made; None for a program that reads stdin."""
    return problem.fn_name and problem.fn_name + problem.signature


def hardest_first(tests: Sequence[TestCase]) -> list[tuple[int, TestCase]]:
    """Tests with their numbers in the problem (from 1), longest input first, equal lengths in the problem's order."""
    return sorted(enumerate(tests, start=1), key=lambda numbered: -len(numbered[1].input))


def limits_of(problem: Problem, config: VerifierConfig) -> Limits:
    """The problem's own limits; where it has none, or more memory than there is, the verifier's."""
    cpu_s = problem.time_limit_s or config.default_time_limit_s
    return Limits(
        cpu_s=cpu_s,
        wall_s=cpu_s * config.wall_factor,
        memory_mib=min(problem.memory_limit_mib or config.memory_limit_mib, config.memory_limit_mib),
        output_mib=config.output_limit_mib,
        max_processes=config.max_processes,
    )


def _verdict(problem: Problem, outcome: Outcome, executions: list[Execution], passed: int, detail: str) -> Verdict:
    return Verdict(
        outcome=outcome,
        tests_passed=passed,
        tests_total=len(problem.tests),
        cpu_s=max((execution.cpu_s for execution in executions), default=0.0),
        peak_memory_mib=max((execution.peak_memory_mib for execution in executions), default=0.0),
        detail=detail,
    )
