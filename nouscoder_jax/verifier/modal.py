"""A sandbox on Modal: one Modal sandbox a rollout, without network, thrown away after its program (written against
modal 1.6.4).

In: programs and inputs; credentials of a Modal account, as its SDK finds them. Out: Executions. Modal starts as many
sandboxes as are asked for at once (`verifier.num_workers`); the runner inside is the one of every other backend.
Whatever Modal itself fails at is a JudgeError, never a verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import ExecutionStatus, JudgeError
from nouscoder_jax.verifier import bundle
from nouscoder_jax.verifier.connection import RunnerConnection
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, SandboxOutError

APP = "nouscoder-judge"
"""Name of the Modal app that the sandboxes belong to."""
LIFETIME_S = 3600
"""Seconds after which Modal ends a sandbox, whatever runs in it."""
_UID = 10001
_RUNNER_MIB = 256
"""Memory of a sandbox beyond the program's."""
_WRITE_BYTES = 1 << 20
"""Of one message to the runner; the SDK takes at most 2 MiB."""
_PROBE_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_mib=64, output_mib=1, max_processes=4)


class ModalSandbox:
    """Makes sessions on Modal. Raises UserError where its SDK is missing or no account answers."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._modal = _sdk()
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        try:
            self._app = self._modal.App.lookup(APP, create_if_missing=True)
            self._image = self._modal.Image.debian_slim(python_version=version).pip_install("numpy")
        except self._modal.exception.Error as error:
            raise UserError(
                f"verifier.backend is modal, and Modal answers {type(error).__name__}: {_one_line(error)}; set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run: modal token new"
            ) from error
        self._bundle = bundle.bundle(compiled=False)
        self._command = bundle.command("python3", len(self._bundle))
        self._live: list[Any] = []
        self.name = f"modal: a sandbox a rollout, no network, user id of its own, seccomp, Python {version}"

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[RunnerConnection]:
        """A Modal sandbox with this program. Raises JudgeError; SandboxOutError where a probe fails too."""
        try:
            async with self._session(program, fn_name=fn_name, limits=limits) as connection:
                yield connection
        except RunnerLostError:
            raise
        except JudgeError as error:
            try:
                await self.probe()
            except JudgeError as reason:
                raise SandboxOutError(f"Modal runs no program: {reason}") from error
            raise

    async def probe(self) -> None:
        """Returns where a program can be run. Raises JudgeError."""
        async with self._session("print(1)", fn_name=None, limits=_PROBE_LIMITS) as connection:
            execution = await connection.run("")
        if (execution.status, execution.stdout) != (ExecutionStatus.EXITED, b"1\n"):
            raise JudgeError(f"a program that prints 1 ended with {execution.status.value}: {execution.detail}")

    async def close(self) -> None:
        """Ends all sandboxes that are left."""
        await asyncio.gather(*(self._end(sandbox) for sandbox in list(self._live)))

    @contextlib.asynccontextmanager
    async def _session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[RunnerConnection]:
        sandbox = None
        try:
            try:
                sandbox = await self._create()
                process = await sandbox.exec.aio(
                    *self._command, text=False, env=dict(bundle.ENVIRONMENT), workdir="/", timeout=LIFETIME_S
                )
            except self._modal.exception.Error as error:
                raise JudgeError(f"Modal started no sandbox: {type(error).__name__}: {_one_line(error)}") from error
            stream = _Stream(process, error=self._modal.exception.Error)
            connection = RunnerConnection(stream, stream, why_lost=self._why_lost(process))
            stream.write(self._bundle)
            await connection.setup(enter="container", uid=_UID, folder="/tmp")
            await connection.open(program, fn_name=fn_name, limits=limits)
            yield connection
        finally:
            if sandbox is not None:
                await asyncio.shield(self._end(sandbox))

    async def _create(self) -> Any:
        memory = self._config.memory_limit_mib + _RUNNER_MIB
        sandbox = await self._modal.Sandbox.create.aio(
            "sleep", "infinity", app=self._app, image=self._image, timeout=LIFETIME_S, block_network=True,
            cpu=(1.0, 2.0), memory=(memory, memory),
        )  # fmt: skip
        self._live.append(sandbox)
        return sandbox

    async def _end(self, sandbox: Any) -> None:
        with contextlib.suppress(self._modal.exception.Error):  # Modal ends it after LIFETIME_S
            await sandbox.terminate.aio()
        self._live = [other for other in self._live if other is not sandbox]

    def _why_lost(self, process: Any) -> Callable[[str], Awaitable[JudgeError]]:
        async def why_lost(what: str) -> JudgeError:
            """Whose doing it was that the connection broke. The runner leaves with 0 when its input ends, and Modal
            kills what it moves or ends: only another code can be the program's doing."""
            try:
                code = await process.poll.aio()
            except self._modal.exception.Error as error:
                return JudgeError(f"Modal lost the sandbox ({what}; {_one_line(error)})")
            if code is None:
                return JudgeError(f"the connection to a sandbox that still runs was lost ({what})")
            if code in (0, -1, -9, -15, 137, 143):
                return JudgeError(f"the sandbox was ended from outside with code {code} ({what})")
            return RunnerLostError(f"the runner ended with exit code {code} ({what})")

        return why_lost


class _Stream:
    """The stdin and stdout of a process on Modal, as a RunnerConnection uses a reader and a writer."""

    def __init__(self, process: Any, *, error: type[Exception]) -> None:
        self._process, self._error = process, error
        self._output = process.stdout.__aiter__()
        self._unread, self._unsent = bytearray(), bytearray()

    async def readexactly(self, n: int) -> bytes:
        """The next bytes. Raises EOFError, OSError."""
        while len(self._unread) < n:
            try:
                self._unread += await anext(self._output)
            except StopAsyncIteration:
                raise EOFError("the runner's output ended") from None
            except self._error as error:
                raise OSError(f"Modal: {_one_line(error)}") from error
        data = bytes(self._unread[:n])
        del self._unread[:n]
        return data

    def write(self, data: bytes) -> None:
        """Sent at the next `drain`."""
        self._unsent += data

    async def drain(self) -> None:
        """Sends what was written. Raises OSError."""
        try:
            while self._unsent:
                self._process.stdin.write(bytes(self._unsent[:_WRITE_BYTES]))
                await self._process.stdin.drain.aio()
                del self._unsent[:_WRITE_BYTES]
        except self._error as error:
            raise OSError(f"Modal: {_one_line(error)}") from error


def _sdk() -> Any:
    try:
        import modal
    except ImportError as error:
        raise UserError(
            "verifier.backend is modal, and its SDK is not installed; run: pip install 'nouscoder-jax[modal]'"
        ) from error
    return modal


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
