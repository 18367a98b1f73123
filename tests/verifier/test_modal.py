"""The Modal backend up to the SDK: in place of Modal, a stand-in for its SDK that runs what it is asked to in fresh
namespaces of this machine. With credentials of an account (MODAL_TOKEN_ID) the same tests run against Modal itself."""

import asyncio
import contextlib
import os
import subprocess
import sys
import types

import pytest
from judge_rig import make_problem
from small import make_config

from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError, Outcome
from nouscoder_jax.verifier import interpreter
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox
from nouscoder_jax.verifier.sandbox import Limits, SandboxOutError

SUMS = (("11 22\n", "33\n"), ("12 34\n", "46\n"))
RIGHT = "print(sum(map(int, input().split())))\n"
CONFIG = make_config(verifier={"backend": "modal", "rollouts_per_sandbox": 1, "max_retries": 1}).verifier
LIMITS = Limits(cpu_s=2.0, wall_s=6.0, memory_mib=256, output_mib=1, max_processes=16)
APART = [
    "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
    'mount -t tmpfs -o mode=1777,size=64m tmpfs /tmp && exec 3<&0 && { "$@" <&3 3<&- & wait $!; }', "sh",
]  # fmt: skip


class Error(Exception):
    """modal.exception.Error."""


def aio(function):
    """A function of the SDK: called plainly it blocks, `.aio` is awaited."""
    return types.SimpleNamespace(aio=function)


class Process:
    """A ContainerProcess whose output is bytes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.broken = process, False
        self._unsent = bytearray()
        self.stdin = types.SimpleNamespace(write=self._write, drain=aio(self._drain))
        self.stdout = self._chunks()
        self.poll = aio(self._poll)

    def _write(self, data: bytes) -> None:
        assert len(self._unsent) + len(data) <= 2 << 20, "the SDK's buffer"
        self._unsent += data

    async def _drain(self) -> None:
        if self.broken:
            raise Error("the worker is gone")
        self._process.stdin.write(bytes(self._unsent))
        self._unsent.clear()
        await self._process.stdin.drain()

    async def _chunks(self):
        while chunk := await self._process.stdout.read(1000):
            yield chunk

    async def _poll(self) -> int | None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 1)
        return self._process.returncode


class Sdk:
    """The part of modal that the backend uses."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.processes: list[Process] = []
        self.running = 0
        self.down = False
        self.module = types.ModuleType("modal")
        self.module.exception = types.SimpleNamespace(Error=Error)  # type: ignore[attr-defined]
        self.module.App = types.SimpleNamespace(lookup=self._lookup)  # type: ignore[attr-defined]
        image = types.SimpleNamespace(pip_install=lambda *names: image)
        self.module.Image = types.SimpleNamespace(debian_slim=lambda python_version: image)  # type: ignore[attr-defined]
        self.module.Sandbox = types.SimpleNamespace(create=aio(self._create))  # type: ignore[attr-defined]

    def _lookup(self, name: str, *, create_if_missing: bool):
        if self.down:
            raise Error("Token missing. Could not authenticate client.")
        return name

    async def _create(self, *command: str, **options):
        if self.down:
            raise Error("no capacity")
        self.asked.append(options)
        self.running += 1
        started: list[asyncio.subprocess.Process] = []

        async def execute(*command: str, text: bool, env: dict[str, str], workdir: str, timeout: int) -> Process:
            assert text is False
            process = await asyncio.create_subprocess_exec(
                *APART, interpreter.choose().path, *command[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=env, cwd=workdir,
            )  # fmt: skip
            started.append(process)
            self.processes.append(Process(process))
            return self.processes[-1]

        async def terminate() -> None:
            self.running -= 1
            for process in started:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

        return types.SimpleNamespace(exec=aio(execute), terminate=aio(terminate))


@pytest.fixture
def sdk(monkeypatch) -> Sdk:
    if os.geteuid() != 0 or subprocess.run([*APART, "true"], capture_output=True).returncode != 0:
        pytest.skip("the stand-in for Modal needs namespaces of its own, and so root")
    made = Sdk()
    monkeypatch.setitem(sys.modules, "modal", made.module)
    return made


def judged(program: str, *, tests=SUMS, config=CONFIG, while_it_runs=None, **problem):
    async def run():
        judge = SandboxJudge(make_sandbox(config), config, stop_at_first_failure=True, say=lambda line: None)
        try:
            judging = asyncio.create_task(judge.judge(make_problem(tests, **problem), program))
            if while_it_runs is not None:
                await while_it_runs()
            return await judging
        finally:
            await judge.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (RIGHT, Outcome.ACCEPTED),
        ("print(7)\n", Outcome.WRONG_ANSWER),
        ("while True: pass\n", Outcome.TIME_LIMIT),
        ("x = bytearray(10 ** 9)\nx[::4096] = b'1' * len(x[::4096])\n", Outcome.MEMORY_LIMIT),
        ("print('x' * (2 << 20))\n", Outcome.OUTPUT_LIMIT),
        ("1 / 0\n", Outcome.RUNTIME_ERROR),
        ("import socket\nsocket.create_connection(('1.1.1.1', 53), 1)\n", Outcome.RUNTIME_ERROR),
    ],
)
def test_verdicts_are_those_of_every_other_backend(sdk, program, outcome):
    verdict = judged(program, time_limit_s=0.5)
    assert verdict.outcome is outcome, verdict.detail
    assert sdk.running == 0, "a sandbox is ended with its program"


def test_a_sandbox_has_no_network_and_the_limits_of_the_config(sdk):
    judged(RIGHT)
    (options,) = sdk.asked
    assert options["block_network"] is True
    assert CONFIG.memory_limit_mib < options["memory"][1] <= CONFIG.memory_limit_mib + 512
    assert options["timeout"] > CONFIG.default_time_limit_s


def test_a_large_input_goes_in_parts_that_the_sdk_takes(sdk):
    text = "1" * (5 << 20)
    verdict = judged("print(len(input()))\n", tests=((text + "\n", f"{5 << 20}\n"),), time_limit_s=10.0)
    assert verdict.outcome is Outcome.ACCEPTED


def test_no_account_is_told_in_one_line(sdk):
    sdk.down = True
    with pytest.raises(UserError, match=r"Could not authenticate.*MODAL_TOKEN_ID.*modal token new"):
        make_sandbox(CONFIG)


def test_a_missing_sdk_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(UserError, match=r"pip install 'nouscoder-jax\[modal\]'"):
        make_sandbox(CONFIG)


def test_a_failure_of_modal_is_never_a_verdict(sdk):
    async def run():
        sandbox = make_sandbox(CONFIG)
        sdk.down = True
        with pytest.raises(SandboxOutError, match="Modal started no sandbox: Error: no capacity"):
            async with sandbox.session(RIGHT, fn_name=None, limits=LIMITS):
                pass
        sdk.down = False
        async with sandbox.session("import time; time.sleep(5)\n", fn_name=None, limits=LIMITS) as session:
            sdk.processes[-1].broken = True
            with pytest.raises(JudgeError, match="still runs was lost"):
                await session.run("1 2\n")
        await sandbox.close()

    asyncio.run(run())
    assert sdk.running == 0


def test_a_config_with_sandboxes_that_are_used_again_is_refused():
    with pytest.raises(ValueError, match=r"use --verifier\.rollouts-per-sandbox 1"):
        make_config(verifier={"backend": "modal", "rollouts_per_sandbox": 8})
