"""The judge of a run: one sandbox backend, a bounded number of programs at a time.

In: VerifierConfig; problems and programs. Out: Verdicts, JudgeErrors. `make_sandbox` chooses the backend.

    judge() -> queue for a worker, first in first out -> gate, closed during an outage -> verify() -> verdict
                                                          ^------ not counted ------- SandboxOutError
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import Problem, Verdict
from nouscoder_jax.verifier.breaker import Breaker
from nouscoder_jax.verifier.livecodebench import verify_published
from nouscoder_jax.verifier.local import LocalSandbox
from nouscoder_jax.verifier.sandbox import Sandbox, SandboxOutError
from nouscoder_jax.verifier.verify import verify


def _docker(config: VerifierConfig) -> Sandbox:
    from nouscoder_jax.verifier.docker.sandbox import DockerSandbox  # the SDK takes 0.2 s to import

    return DockerSandbox(config)


def _local(config: VerifierConfig) -> Sandbox:
    return LocalSandbox(reuse=config.rollouts_per_sandbox)


def _modal(config: VerifierConfig) -> Sandbox:
    from nouscoder_jax.verifier.modal import ModalSandbox  # an optional extra

    return ModalSandbox(config)


def _auto(config: VerifierConfig) -> Sandbox:
    try:
        return _docker(config)
    except UserError as error:
        if config.docker_hosts:  # whoever names hosts wants them
            raise
        sandbox = _local(config)
        reason = str(error).partition(" (")[0]
        sandbox.name += f" (docker: {reason})"
        return sandbox


BACKENDS: dict[str, Callable[[VerifierConfig], Sandbox]] = {
    "docker": _docker, "local": _local, "modal": _modal, "auto": _auto,
}  # fmt: skip


def make_sandbox(config: VerifierConfig) -> Sandbox:
    """The backend that the config names; auto: docker where a host answers, else local, whose name then says why.
    Docker hosts that the config names must answer.

    Raises UserError where the chosen one cannot work here.
    """
    return BACKENDS[config.backend](config)


@runtime_checkable
class Judge(Protocol):
    """Whatever turns a program into a verdict."""

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        """The verdict; outcome no_program for None. Raises JudgeError when the judge itself failed."""
        ...


class SandboxJudge:
    """Judges programs in a sandbox, `config.num_workers` at a time; who asks first is served first.

    Example:
        judge = SandboxJudge(make_sandbox(config), config, stop_at_first_failure=True, say=print)
        verdict = await judge.judge(problem, program)
    """

    def __init__(
        self, sandbox: Sandbox, config: VerifierConfig, *, stop_at_first_failure: bool, say: Callable[[str], None]
    ) -> None:
        """`say` takes the lines for people when an outage begins, goes on and ends."""
        self.sandbox = sandbox
        self.config = config
        self.num_waiting = 0
        """Programs asked for and not judged yet."""
        self.breaker = Breaker(sandbox, limit_s=config.outage_limit_s, say=say, num_waiting=lambda: self.num_waiting)
        self._stop_at_first_failure = stop_at_first_failure
        self._workers = asyncio.Semaphore(config.num_workers)

    @property
    def name(self) -> str:
        """For people: what isolates programs, and how strongly."""
        return self.sandbox.name

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        """The verdict on one program. Raises JudgeError, which never says anything about the program, and OutageError
        after an outage that lasted `config.outage_limit_s`."""
        return await self._queued(
            lambda: verify(
                problem,
                program,
                sandbox=self.sandbox,
                config=self.config,
                stop_at_first_failure=self._stop_at_first_failure,
            )
        )

    async def judge_published(self, problem: Problem, program: str | None) -> Verdict:
        """The verdict of LiveCodeBench's public harness, in the same queue. Raises like `judge`."""
        return await self._queued(lambda: verify_published(problem, program, sandbox=self.sandbox, config=self.config))

    async def close(self) -> None:
        """Ends every sandbox."""
        await self.breaker.close()
        await self.sandbox.close()

    async def _queued(self, judge: Callable[[], Awaitable[Verdict]]) -> Verdict:
        self.num_waiting += 1
        try:
            async with self._workers:
                return await self._through_outages(judge)
        finally:
            self.num_waiting -= 1

    async def _through_outages(self, judge: Callable[[], Awaitable[Verdict]]) -> Verdict:
        while True:
            await self.breaker.gate()
            try:
                return await judge()
            except SandboxOutError as error:
                await self.breaker.wait(error)
