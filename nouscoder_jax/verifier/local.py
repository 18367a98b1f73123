"""A sandbox without Docker: a runner for each program, or for a few, in Linux namespaces where the system permits them.

In: programs and inputs. Out: Executions. The process is started from a bare interpreter by its real path (a version
manager's shim costs ten times as much) and without preexec_fn, so that a large parent is not copied (vfork).

Four strengths, found out once by trying and shown in `name`; all have rlimits, a seccomp filter and no capabilities:

    root     namespaces and an unprivileged user id of its own; host files and processes are out of sight; no network
    user     the same in a user namespace; nothing but polling limits the number of processes
    landlock no namespaces permitted (inside an unprivileged container, say): Landlock shows only the system, this
             Python and the program's folder; no sockets, no signals but to its own; /dev/shm is the host's, never wiped
    nothing  no Landlock either: host files that this user can read are in sight

Weaker than a container in all: no cgroup, so memory is polled every 20 ms, memory that no process has mapped (files in
memory) is not counted, and the kernel's other limits are shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator

from nouscoder_jax.config import UserError
from nouscoder_jax.types import ExecutionStatus, JudgeError
from nouscoder_jax.verifier import bundle, interpreter
from nouscoder_jax.verifier.connection import RunnerConnection
from nouscoder_jax.verifier.inside import protocol
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, SandboxOutError

_FIRST_UID, _NUM_UIDS = 200_000, 50_000
_STREAM_BYTES = 1 << 20
_LEAVE_S = 2.0
_KILLED = 128 + 9
_PROBE_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_mib=64, output_mib=1, max_processes=4)
# Deep recursion needs a large main stack, and the kernel lays memory out for it when a program starts.
_SHELL = 'ulimit -s unlimited 2>/dev/null || ulimit -s "$(ulimit -H -s)"; exec "$@"'
_NAMES = {
    "root": "local (weaker than docker): fresh namespaces, user id of its own, no network, seccomp, rlimits",
    "user": "local (weaker than docker): fresh namespaces of an ordinary user, no network, seccomp, rlimits",
    "landlock": "local (weaker than docker): no namespaces permitted here; Landlock hides host files and processes, "
    "seccomp, rlimits",
    "nothing": "local, WEAK: this system permits no namespaces; seccomp and rlimits only, host files are in sight",
}


async def _why_lost(process: asyncio.subprocess.Process, what: str) -> JudgeError:
    """Whose doing it was that a runner connection broke; the process that was started ends as its pid 1 did.

    Nothing inside can kill the runner, and it leaves with 0 only when its connection is closed.
    """
    try:
        code = await asyncio.wait_for(process.wait(), _LEAVE_S)
    except TimeoutError:
        return JudgeError(f"the connection to a runner that still runs was lost ({what})")
    if code == 0:
        return JudgeError(f"the connection to the runner was closed ({what})")
    if code in (-signal.SIGKILL, -signal.SIGTERM, _KILLED):
        return JudgeError(f"the runner was killed from outside ({what})")
    return RunnerLostError(f"the runner ended with code {code} ({what})")


class _LocalRunner:
    """One running runner, the connection to it, and the folder that programs may write."""

    def __init__(self, process: asyncio.subprocess.Process, connection: RunnerConnection, folder: str) -> None:
        self.process = process
        self.connection = connection
        self.folder = folder
        self.rollouts = 0


class LocalSandbox:
    """Makes sessions on this machine. Raises UserError where not even a plain process works."""

    def __init__(self, *, reuse: int) -> None:
        """`reuse`: programs that one runner judges, one after another, before it is thrown away."""
        self._reuse = reuse
        self._python = interpreter.choose()
        self._bundle = bundle.bundle(compiled=self._python.same_bytecode)
        self._command = ["/bin/sh", "-c", _SHELL, "sh", *bundle.command(self._python.path, len(self._bundle))]
        self._numbers = itertools.count(os.getpid() * 97)
        self._live: set[_LocalRunner] = set()
        self._spare: list[_LocalRunner] = []
        self._closed = False
        self._enter = "namespaces"
        self.isolation = self._probe()
        each = "a runner a rollout" if reuse == 1 else f"a runner for {reuse} rollouts"
        self.name = f"{_NAMES[self.isolation]}; {each}, Python {self._python.version}"

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[RunnerConnection]:
        """A runner of its own with this program. Raises JudgeError; SandboxOutError where nothing else runs either."""
        try:
            async with self._session(program, fn_name=fn_name, limits=limits) as connection:
                yield connection
        except RunnerLostError:
            raise
        except JudgeError as error:
            try:
                await self.probe()
            except JudgeError as reason:
                raise SandboxOutError(f"this machine runs no program: {reason}") from error
            raise

    async def probe(self) -> None:
        """Returns where a program can be run, by running one. Raises JudgeError."""
        async with self._session("print(6 * 7)", fn_name=None, limits=_PROBE_LIMITS) as connection:
            execution = await connection.run("")
        if execution.status is not ExecutionStatus.EXITED or execution.stdout != b"42\n":
            raise JudgeError(f"a program of one line ended with {execution.status.value} ({execution.detail})")

    @contextlib.asynccontextmanager
    async def _session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[RunnerConnection]:
        runner = await self._take()
        reusable = False
        try:
            await runner.connection.open(program, fn_name=fn_name, limits=limits)
            yield runner.connection
            runner.rollouts += 1
            reusable = runner.connection.reusable and runner.rollouts < self._reuse
        finally:
            if reusable and not self._closed:
                self._spare.append(runner)
            else:
                await asyncio.shield(self._end(runner))

    async def close(self) -> None:
        """Ends everything that is left."""
        self._closed = True
        self._spare.clear()
        await asyncio.gather(*(self._end(runner) for runner in list(self._live)))

    async def _take(self) -> _LocalRunner:
        """A runner that is ready: one that earlier rollouts left clean, or a fresh one. Raises JudgeError."""
        while self._spare:
            runner = self._spare.pop()
            if runner.process.returncode is None:
                return runner
            await self._end(runner)
        folder = "/tmp" if self._enter == "namespaces" else tempfile.mkdtemp(prefix="nouscoder-judge-")
        process = await self._start()
        assert process.stdin is not None and process.stdout is not None
        connection = RunnerConnection(process.stdout, process.stdin, why_lost=functools.partial(_why_lost, process))
        runner = _LocalRunner(process, connection, folder)
        self._live.add(runner)
        try:
            process.stdin.write(self._bundle)
            await runner.connection.setup(**self._fields(folder))
        except BaseException:
            await asyncio.shield(self._end(runner))
            raise
        return runner

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=bundle.ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                limit=_STREAM_BYTES,
            )
        except OSError as error:
            raise JudgeError(f"no process for a sandbox: {error}") from error

    async def _end(self, runner: _LocalRunner) -> None:
        """Closes the connection, at which the runner ends everything; kills it where it does not."""
        if runner not in self._live:
            return
        self._live.discard(runner)
        process = runner.process
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _LEAVE_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._enter != "namespaces":
            shutil.rmtree(runner.folder, ignore_errors=True)

    def _fields(self, folder: str) -> dict[str, object]:
        uid = _FIRST_UID + next(self._numbers) % _NUM_UIDS
        if self._enter != "namespaces" and os.geteuid() != 0:
            uid = 0  # an ordinary user can become nobody else
        return {"enter": self._enter, "uid": uid, "folder": folder}

    def _probe(self) -> str:
        """The strength that a runner gets here, see above."""
        problem = ""
        for enter in ("namespaces", "nothing"):
            self._enter = enter
            with tempfile.TemporaryDirectory() as folder:
                fields = self._fields("/tmp" if enter == "namespaces" else folder)
                frame = protocol.pack({"op": "setup", **fields}, 0)
                try:
                    done = subprocess.run(
                        self._command, input=self._bundle + frame, capture_output=True, env=bundle.ENVIRONMENT, cwd="/",
                        timeout=60, check=False, start_new_session=True,
                    )  # fmt: skip
                except (OSError, subprocess.TimeoutExpired) as error:
                    raise UserError(f"no local sandbox: {self._python.path} does not run ({error})") from error
            answer = protocol.unpack_fields(done.stdout[protocol.HEAD.size :])
            if "isolation" in answer:
                return answer["isolation"]
            problem = answer.get("judge_error") or done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise UserError(f"no local sandbox: the runner does not start ({problem}); use --verifier.backend docker")
