"""The row of a catalogue: a program, the tests that it is run on in one session, and what must become of it.

In: program texts. Out: Cases, and the Problem of a Case. Unless a case says otherwise the problem is the sum of two
numbers, so that a right program is one line.
"""

import secrets
from dataclasses import dataclass

from judge_rig import make_problem

from nouscoder_jax.types import Outcome

AC, WA, RE = Outcome.ACCEPTED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR
TLE, MLE, OLE = Outcome.TIME_LIMIT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT

RIGHT = "print(sum(map(int, input().split())), flush=True)\n"
WRONG = "print(7, flush=True)\n"
C = "import ctypes, os, sys, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n"
SUMS = (("11 22\n", "33\n"), ("12 34\n", "46\n"), ("23 45\n", "68\n"))
"""Of equal length: they run in this order."""
QUICK_S = 0.2
"""CPU limit of programs that never end."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program with its expected outcome."""

    name: str
    program: str
    outcomes: tuple[Outcome, ...]
    """More than one only where the kernel decides; the reason stands beside the case."""
    passed: int
    """Tests that must pass."""
    tests: tuple[tuple[str, str], ...]
    fn_name: str | None
    kind: str
    cpu_s: float
    memory_mib: int
    prelude: str

    def problem(self):
        return make_problem(
            self.tests, fn_name=self.fn_name, kind=self.kind, time_limit_s=self.cpu_s, memory_limit_mib=self.memory_mib,
            prelude=self.prelude,
        )  # fmt: skip


def case(name, outcomes, program, *, tests=2, passed=None, cpu_s=2.0, memory_mib=256, kind="tokens", prelude=""):
    """A program that reads stdin. tests: how many of SUMS, or (input, expected) pairs."""
    outcomes = outcomes if isinstance(outcomes, tuple) else (outcomes,)
    tests = SUMS[:tests] if isinstance(tests, int) else tests
    return Case(
        name=name, program=program, outcomes=outcomes, tests=tests, fn_name=None, kind=kind, cpu_s=cpu_s,
        memory_mib=memory_mib, prelude=prelude,
        passed=(len(tests) if outcomes == (AC,) else 0) if passed is None else passed,
    )  # fmt: skip


def endless(name, program):
    """A program that has to be stopped: by its CPU time, or by the clock where it sleeps."""
    return case(name, TLE, program, tests=1, cpu_s=QUICK_S)


def hunter(name, program):
    """A program that looks for its expected output, a random text, and has to print something else in the end."""
    tests = tuple((f"{number}\n", f"tok-{secrets.token_hex(8)}\n") for number in (1, 2))
    return case(name, WA, HUNT + program + "\nprint('none')\n", tests=tests)


def function(name, outcomes, program, *, tests, fn_name="f", kind="exact", prelude="", cpu_s=2.0):
    """A program whose function is called."""
    outcomes = outcomes if isinstance(outcomes, tuple) else (outcomes,)
    return Case(
        name=name, program=program, outcomes=outcomes, tests=tests, fn_name=fn_name, kind=kind, cpu_s=cpu_s,
        memory_mib=256, prelude=prelude, passed=len(tests) if outcomes == (AC,) else 0,
    )  # fmt: skip


HUNT = """
import ctypes, glob, os, re, sys
sure = re.compile('tok-[0-9a-f]' + '{16}')
def tell(data):
    hit = sure.search(data.decode('latin-1') if isinstance(data, (bytes, bytearray)) else str(data))
    if hit:
        os.write(1, hit[0].encode())
        os._exit(0)
def look(f):
    try: tell(f())
    except Exception: pass
def read(path, size=1 << 20):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try: return os.read(fd, size)
    finally: os.close(fd)
"""
