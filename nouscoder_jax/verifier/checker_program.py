"""Problems with several right answers: the problem's own program decides, in a sandbox of its own.

In: a Problem of comparison kind `program`, a Sandbox, one output after another. Out: None where the output is right,
else a line for people. The judged program is not in this sandbox, and nothing else runs in it afterwards: it has seen
expected outputs. What it does wrong is the judge's failure and never the program's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from nouscoder_jax.config import VerifierConfig
from nouscoder_jax.types import ExecutionStatus, JudgeError, Problem, TestCase
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, Sandbox, Session

FN_NAME = "check"
_SHOWN_CHARS = 200


class ProgramChecker:
    """A running checker."""

    def __init__(self, session: Session, problem_id: str) -> None:
        self._session = session
        self._problem_id = problem_id

    async def mismatch(self, test: TestCase, output: bytes) -> str | None:
        """None where the checker takes the output. One that it cannot read is wrong, if it can read the expected one.

        Raises JudgeError where the checker fails on the expected output as well.
        """
        answer, reason = await self._ask(test, output.decode("utf-8", "surrogateescape"))
        if answer is not None:
            return None if answer else "the problem's checker says no"
        sane, why = await self._ask(test, test.expected)
        if sane:
            return f"the problem's checker cannot read the output: {reason}"
        raise JudgeError(f"the checker of problem {self._problem_id!r} fails on the expected output: {why}")

    async def _ask(self, test: TestCase, output: str) -> tuple[bool | None, str]:
        """The checker's answer; None and the reason where it gave none."""
        try:
            done = await self._session.run(json.dumps([test.input, test.expected, output]))
        except RunnerLostError as error:
            raise JudgeError(f"the checker of problem {self._problem_id!r} was lost: {error}") from error
        if done.status is not ExecutionStatus.EXITED:
            return None, f"{done.status.value}: {done.detail}"
        if done.stdout in (b"true", b"false"):
            return done.stdout == b"true", "it says no"
        said = done.stdout[:_SHOWN_CHARS].decode("utf-8", "replace") or "nothing"
        return None, f"it returned {said}, expected True or False"


@contextlib.asynccontextmanager
async def open_checker(problem: Problem, *, sandbox: Sandbox, config: VerifierConfig) -> AsyncIterator[ProgramChecker]:
    """The problem's checker in a sandbox of its own. Raises JudgeError."""
    limits = Limits(
        cpu_s=config.default_time_limit_s,
        wall_s=config.default_time_limit_s * config.wall_factor,
        memory_mib=config.memory_limit_mib,
        output_mib=config.output_limit_mib,
        max_processes=config.max_processes,
    )
    async with sandbox.session(problem.comparison.program, fn_name=FN_NAME, limits=limits) as session:
        session.retire()
        yield ProgramChecker(session, problem.problem_id)
