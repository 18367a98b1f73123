"""UNSAFE, for comparison only: other ways to judge programs, written to be timed beside ours.

In: problems and programs. Out: Judged. None of them may be used for training: the in-process ways hold the expected
outputs in the process of the program, a plain host process sees the whole machine, and none cleans up after a program.
They run the same Python as ours, as many programs at a time, and the same comparison of lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from nouscoder_jax.bench.judge import inprocess
from nouscoder_jax.bench.judge.programs import TIME_LIMIT_S, Judged
from nouscoder_jax.config import UserError
from nouscoder_jax.types import Problem
from nouscoder_jax.verifier import interpreter

_WORKER = Path(inprocess.__file__)
_LINE_BYTES = 1 << 20


class InProcess:
    """Programs in processes that also judge them; the ways are those of inprocess.py."""

    def __init__(self, way: str) -> None:
        self._way = way
        self._free: list[asyncio.subprocess.Process] = []
        self._all: list[asyncio.subprocess.Process] = []

    async def judge(self, problem: Problem, program: str) -> Judged:
        """Hands the program to a worker that is free, or to a new one. Raises EOFError where the worker dies."""
        worker = self._free.pop() if self._free else await self._start()
        assert worker.stdin is not None and worker.stdout is not None
        tests = [[test.input, test.expected] for test in problem.tests]
        asked = {"way": self._way, "program": program, "tests": tests, "limit_s": TIME_LIMIT_S}
        worker.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await worker.stdout.readline()
        if not line:
            raise EOFError(f"the in-process judge ({self._way}) died")
        answer = json.loads(line)
        self._free.append(worker)
        return Judged(accepted=answer["passed"] == len(tests), test_s=tuple(answer["seconds"]))

    async def close(self) -> None:
        """Ends the workers."""
        for worker in self._all:
            assert worker.stdin is not None
            worker.stdin.close()
        await asyncio.gather(*(worker.wait() for worker in self._all))

    async def _start(self) -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            interpreter.choose().path, "-I", str(_WORKER), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            limit=_LINE_BYTES,
        )  # fmt: skip
        self._all.append(worker)
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
        passed, seconds = 0, []
        for test in problem.tests:
            started = time.perf_counter()
            done = subprocess.run(
                [*self._command, "-c", program], input=test.input, capture_output=True, text=True,
                timeout=TIME_LIMIT_S, check=False,
            )  # fmt: skip
            passed += done.returncode == 0 and inprocess.same_lines(test.expected, done.stdout)
            seconds.append(time.perf_counter() - started)
        return Judged(accepted=passed == len(problem.tests), test_s=tuple(seconds))


def host_process() -> CommandATest:
    """A fresh `python -I` a test on this machine, nothing between it and the machine."""
    return CommandATest([interpreter.choose().path, "-I"])


def docker_run(image: str) -> CommandATest:
    """`docker run --rm` a test, by the command line client. Raises UserError where it does not work here."""
    if shutil.which("docker") is None:
        raise UserError("no docker command; install the client, such as docker-cli")
    command = ["docker", "run", "--rm", "-i", "--network", "none", "--memory", "512m", "--pids-limit", "64", image]
    command += ["python3", "-I"]
    done = subprocess.run([*command, "-c", "print(1)"], capture_output=True, text=True, check=False, env=os.environ)
    if done.stdout != "1\n":
        raise UserError(f"docker run does not work: {done.stderr.strip().splitlines()[-1:]}")
    return CommandATest(command)
