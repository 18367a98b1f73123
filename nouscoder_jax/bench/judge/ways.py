"""The ways of judging that `bench.py judge` runs beside each other: ours, and baselines.

In: a problem and a program. Out: whether it was accepted, seconds of each test. The baselines are UNSAFE, for
comparison only: the in-process ways hold the expected outputs in the process of the program, a plain host process sees
the whole machine, and none cleans up after a program. All run the same Python, as many programs at a time, and compare
lines alike.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, runtime_checkable

from nouscoder_jax.bench.judge import inprocess
from nouscoder_jax.bench.judge.programs import TIME_LIMIT_S
from nouscoder_jax.bench.worker import Worker
from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import ExecutionStatus, Problem
from nouscoder_jax.verifier import interpreter
from nouscoder_jax.verifier.checker import mismatch
from nouscoder_jax.verifier.judge import make_sandbox
from nouscoder_jax.verifier.verify import call_of, hardest_first, limits_of

Judged = tuple[bool, list[float]]
"""Accepted; seconds of each test from the input handed over to the answer, without making a sandbox."""


@runtime_checkable
class Way(Protocol):
    """One way of judging. It may judge several programs at the same time."""

    async def judge(self, problem: Problem, program: str) -> Judged:
        """Runs the program on all tests of the problem."""
        ...

    async def close(self) -> None:
        """Ends everything that it started."""
        ...


class Ours:
    """The judge of this package: its sandboxes and its comparison, with a stopwatch around each test."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._sandbox = make_sandbox(config)

    async def judge(self, problem: Problem, program: str) -> Judged:
        """A rollout in a sandbox. Raises JudgeError at once: a fault that is retried would look like slowness."""
        passed, test_s = 0, []
        limits = limits_of(problem, self._config)
        async with self._sandbox.session(program, fn_name=call_of(problem), limits=limits) as session:
            for _, test in hardest_first(problem.tests):
                started = time.perf_counter()
                execution = await session.run(test.input)
                test_s.append(time.perf_counter() - started)
                exited = execution.status is ExecutionStatus.EXITED
                passed += exited and not mismatch(test.expected, execution.stdout, problem.comparison)
        return passed == len(problem.tests), test_s

    async def close(self) -> None:
        """Ends every sandbox."""
        await self._sandbox.close()


class InProcess:
    """Programs in processes that also judge them; the ways are those of inprocess.py."""

    def __init__(self, way: str) -> None:
        self._way, self._free, self._stack = way, [], ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))

    async def judge(self, problem: Problem, program: str) -> Judged:
        """Hands the program to a worker that is free, or to a new one, in a thread. Raises WorkerError."""
        worker = self._free.pop() if self._free else self._start()
        tests = [[test.input, test.expected] for test in problem.tests]
        asked = {"way": self._way, "program": program, "tests": tests, "limit_s": TIME_LIMIT_S}
        passed, seconds = (await asyncio.to_thread(worker.ask, "judge", **asked))["found"]
        self._free.append(worker)
        return passed == len(tests), seconds

    async def close(self) -> None:
        """Ends the workers."""
        self._stack.close()

    def _start(self) -> Worker:
        command = [interpreter.choose().path, "-I", inprocess.__file__]
        worker = self._stack.enter_context(Worker(self._way, command, self._folder, {}))
        worker.wait_ready()
        return worker


class CommandATest:
    """A command a test: stdin is the input, stdout the output. It ends with `-c PROGRAM`."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    async def judge(self, problem: Problem, program: str) -> Judged:
        """Runs the command once a test, in a thread."""
        return await asyncio.to_thread(self._judge, problem, program)

    async def close(self) -> None:
        """Nothing is left: every command has ended."""

    def _judge(self, problem: Problem, program: str) -> Judged:
        passed, seconds, command = 0, [], [*self._command, "-c", program]
        for test in problem.tests:
            started = time.perf_counter()
            done = subprocess.run(command, input=test.input, capture_output=True, text=True, timeout=TIME_LIMIT_S)
            passed += done.returncode == 0 and inprocess.same_lines(test.expected, done.stdout)
            seconds.append(time.perf_counter() - started)
        return passed == len(problem.tests), seconds


def host_process() -> CommandATest:
    """A fresh `python -I` a test on this machine, nothing between it and the machine."""
    return CommandATest([interpreter.choose().path, "-I"])


def docker_run(image: str) -> CommandATest:
    """`docker run --rm` a test, by the command line client. Raises UserError where it does not work here."""
    if shutil.which("docker") is None:
        raise UserError("no docker command; install the client, such as docker-cli")
    command = ["docker", "run", "--rm", "-i", "--network", "none", "--memory", "512m", "--pids-limit", "64", image]
    command += ["python3", "-I"]
    done = subprocess.run([*command, "-c", "print(1)"], capture_output=True, text=True, check=False)
    if done.stdout != "1\n":
        raise UserError(f"docker run does not work: {done.stderr.strip().splitlines()[-1:]}")
    return CommandATest(command)
