"""The judge's end of a runner connection: open a program, run it on an input, read the answer.

In: a pair of streams to a runner (nouscoder_jax/verifier/inside/runner.py). Out: Execution, JudgeError or
RunnerLostError. What comes back is bounded in size and time and is only ever data.

A connection that breaks says nothing about who broke it: the backend that made the runner finds out (`why_lost`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from nouscoder_jax.types import ExecutionStatus, JudgeError
from nouscoder_jax.verifier.inside import protocol
from nouscoder_jax.verifier.sandbox import Execution, Limits, RunnerLostError

START_S = 60.0
"""Seconds that a runner may take to answer before a program runs; long, because machines are loaded."""
SLACK_S = 30.0
"""Seconds beyond the wall limit after which a runner that has not answered is given up."""
_MIB = 1 << 20
_SHOWN_CHARS = 300
# Imported by the runner when the program's text names them: importing is slower than forking.
_IMPORTED_AHEAD = frozenset(
    {
        "array", "asyncio", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
        "fractions", "functools", "heapq", "io", "itertools", "json", "math", "numpy", "operator", "queue", "random",
        "re", "signal", "statistics", "string", "threading", "time", "traceback", "types", "typing",
    }
)  # fmt: skip
# What may hold text that a dying interpreter would still write: objects with a finalizer, files in data structures.
_FINALIZERS = ("__del__", "open(", "io.", "Buffered", "TextIO", "finalize")


@runtime_checkable
class Reader(Protocol):
    """What a runner writes; asyncio.StreamReader is one."""

    async def readexactly(self, n: int) -> bytes:
        """The next `n` bytes. Raises OSError, EOFError."""
        ...


@runtime_checkable
class Writer(Protocol):
    """What a runner reads; asyncio.StreamWriter is one."""

    def write(self, data: bytes) -> None:
        """Sent by `drain` at the latest."""
        ...

    async def drain(self) -> None:
        """Returns when more may be written. Raises OSError."""
        ...


class RunnerConnection:
    """The connection to one runner."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        *,
        why_lost: Callable[[str], Awaitable[JudgeError]],
    ) -> None:
        """`why_lost(what happened)`: RunnerLostError where the runner ended by itself, else another JudgeError."""
        self.reader = reader
        self.writer = writer
        self.why_lost = why_lost
        self.limits: Limits | None = None
        self.clean = True
        self.retired = False

    @property
    def reusable(self) -> bool:
        """Whether another program may run here."""
        return self.clean and not self.retired

    def retire(self) -> None:
        """Nothing else will run here after this program."""
        self.retired = True

    async def setup(self, **fields: object) -> dict[str, str]:
        """Has the runner isolate itself. Returns what the runner says about it. Raises JudgeError."""
        return await self._before_program({"op": "setup", **fields}, b"")

    async def open(self, program: str, *, fn_name: str | None, limits: Limits) -> None:
        """Hands the program over. Raises JudgeError."""
        self.limits = limits
        fields = {
            "op": "open", "fn_name": fn_name or "", "cpu_s": limits.cpu_s, "wall_s": limits.wall_s,
            "memory_mib": limits.memory_mib, "output_mib": limits.output_mib, "max_processes": limits.max_processes,
            "modules": " ".join(modules_to_import(program)), "finalizers": int(needs_finalizers(program)),
        }  # fmt: skip
        await self._before_program(fields, program.encode("utf-8", "surrogatepass"))

    async def run(self, stdin: str) -> Execution:
        """Runs the program on one input. Raises JudgeError, RunnerLostError."""
        limits = self.limits
        assert limits is not None, "open comes before run"
        if not self.clean:
            raise JudgeError("the sandbox could not be cleaned after the last test")
        try:
            async with asyncio.timeout(_deadline_s(limits)):
                answer, output = await self._ask({"op": "run"}, stdin.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise RunnerLostError(f"the sandbox gave a broken answer: {error}") from error
        except (TimeoutError, OSError, EOFError) as error:
            raise await self.why_lost(f"the runner connection broke during a test: {error!r}") from error
        if "judge_error" in answer:
            raise JudgeError(answer["judge_error"])
        try:
            self.clean = answer["clean"] == "1"
            status = ExecutionStatus(answer["status"])
            exited = status is ExecutionStatus.EXITED
            return Execution(
                status=status,
                stdout=output if exited else b"",
                cpu_s=float(answer["cpu_s"]),
                wall_s=float(answer["wall_s"]),
                peak_memory_mib=float(answer["peak_mib"]),
                detail=answer.get("detail", "") or ("" if exited else _last_line(output)),
            )
        except (KeyError, ValueError) as error:
            raise RunnerLostError(f"the sandbox gave a broken answer: {error!r}") from error

    async def _before_program(self, fields: dict[str, object], body: bytes) -> dict[str, str]:
        try:
            async with asyncio.timeout(START_S):
                answer, _ = await self._ask(fields, body)
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            raise JudgeError(f"the sandbox did not start ({fields['op']}): {error!r}") from error
        if "judge_error" in answer:
            raise JudgeError(f"the sandbox did not start: {answer['judge_error']}")
        return answer

    async def _ask(self, fields: dict[str, object], body: bytes) -> tuple[dict[str, str], bytes]:
        self.writer.write(protocol.pack(fields, len(body)) + body)
        await self.writer.drain()
        fields_size, body_size = protocol.HEAD.unpack(await self.read(protocol.HEAD.size))
        most = (self.limits.output_mib if self.limits else 0) * _MIB + 1
        if fields_size > protocol.MAX_FIELDS_BYTES or body_size > most:
            raise ValueError(f"an answer of {fields_size} + {body_size} bytes")
        answer = protocol.unpack_fields(await self.read(fields_size))
        return answer, await self.read(body_size) if body_size else b""

    async def read(self, size: int) -> bytes:
        """The next bytes that the runner wrote. Raises OSError, EOFError."""
        return await self.reader.readexactly(size)


def _last_line(stderr: bytes) -> str:
    """The last line of a traceback: the exception."""
    return stderr.decode("utf-8", "replace").rstrip().rpartition("\n")[2][:_SHOWN_CHARS]


def _deadline_s(limits: Limits) -> float:
    return limits.wall_s * (1 + protocol.MAX_WAIT_FACTOR) + SLACK_S


# What the host reads off a program's text, so that the runner never needs to look at it. Both only save time: a wrong
# guess changes no verdict.


def modules_to_import(program: str) -> list[str]:
    """Modules after `import` and `from` at the beginning of a line, if they are among those worth it; sorted."""
    names: set[str] = set()
    for line in program.splitlines():
        words = line.replace(",", " ").split()
        if words and words[0] in ("import", "from"):
            named = words[1:] if words[0] == "import" else words[1:2]
            names |= {word.partition(".")[0] for word in named}
    return sorted(names & _IMPORTED_AHEAD)


def needs_finalizers(program: str) -> bool:
    """Whether letting go of the program's globals may still write something."""
    return any(word in program for word in _FINALIZERS)
