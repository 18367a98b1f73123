"""What every sandbox can do: run one program on one input after another, under limits, apart from everything else.

In: the source of a program, then one input at a time. Out: an Execution per input. Expected outputs never come here.

Precedence, when several things happened to one run (first that applies):

    1 output_limit    more bytes printed than allowed
    2 memory_limit    the kernel killed for memory, or an uncaught MemoryError
    3 time_limit      CPU or wall limit reached
    4 signalled       ended by a signal
    5 exception       ended by an uncaught exception (SystemExit of any code is a normal end)
    6 exited
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nouscoder_jax.types import ExecutionStatus, JudgeError


class RunnerLostError(JudgeError):
    """The sandbox ended by itself while the program ran, and nobody outside ended it: the program's doing, perhaps.
    Tried once more, then it counts against the program. No other JudgeError ever does."""


class SandboxOutError(JudgeError):
    """What makes sandboxes was found out of order: no program can run there now. Never counted: whoever gets it waits
    until `probe` passes, or goes where it passes already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use.

    Example:
        Limits(cpu_s=2.0, wall_s=6.0, memory_mib=512, output_mib=8, max_processes=64)
    """

    cpu_s: float
    """CPU seconds, children included."""
    wall_s: float
    memory_mib: int
    output_mib: int
    max_processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What one run of a program did.

    Example:
        Execution(status=ExecutionStatus.EXITED, stdout=b"5\\n", cpu_s=0.01, wall_s=0.01, peak_memory_mib=11.0,
                  detail="")
    """

    status: ExecutionStatus
    stdout: bytes
    """For a function problem: the canonical JSON of the returned value."""
    cpu_s: float
    wall_s: float
    peak_memory_mib: float
    detail: str
    """For people: the last line of stderr, the signal, the limit."""


@runtime_checkable
class Session(Protocol):
    """One program in one sandbox."""

    clean: bool
    """False: what a test left could not be removed; nothing more may run here."""

    async def run(self, stdin: str) -> Execution:
        """Runs the program once on this input, in a process of its own. Raises JudgeError, RunnerLostError."""
        ...

    def retire(self) -> None:
        """Nothing else will run in this sandbox after this program."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Makes sessions: a sandbox a rollout."""

    name: str
    """For people, shown on the first line of a run: what isolates, and how strongly."""

    def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AbstractAsyncContextManager[Session]:
        """A fresh sandbox with this program; leaving the context destroys it. Raises JudgeError; SandboxOutError where
        a probe after the failure failed too."""
        ...

    async def probe(self) -> None:
        """Returns where a program can be run, by running one. Raises JudgeError."""
        ...

    async def close(self) -> None:
        """Ends everything that is left: processes, containers, temporary folders."""
        ...
