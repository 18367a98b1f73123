"""What every way of judging is given in `bench.py judge`, and what it gives back.

In: how many programs and tests. Out: problems with a correct two-line program each, the same on every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nouscoder_jax.types import Comparison, Problem, TestCase

_TEMPLATES = (
    ("a, b = map(int, input().split())\nprint(a + b + {k})", lambda a, b, k: a + b + k),
    ("a, b = map(int, input().split())\nprint(a * b - {k})", lambda a, b, k: a * b - k),
    ("numbers = [int(word) for word in input().split()]\nprint(max(numbers) * {k})", lambda a, b, k: max(a, b) * k),
    ("import sys\nprint(sum(map(int, sys.stdin.read().split())) % ({k} + 7))", lambda a, b, k: (a + b) % (k + 7)),
    ("import sys\nprint(min(map(int, sys.stdin.buffer.readline().split())) - {k})", lambda a, b, k: min(a, b) - k),
)
TIME_LIMIT_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one way of judging said about one program.

    Example:
        Judged(accepted=True, test_s=(0.0031, 0.0029))
    """

    accepted: bool
    test_s: tuple[float, ...]
    """Seconds of each test, from the input handed over to the answer; making a sandbox is not in it."""


@runtime_checkable
class Contender(Protocol):
    """One way of judging. It may judge several programs at the same time."""

    async def judge(self, problem: Problem, program: str) -> Judged:
        """Runs the program on all tests of the problem."""
        ...

    async def close(self) -> None:
        """Ends everything that it started."""
        ...


def make_programs(*, num_programs: int, num_tests: int) -> list[tuple[Problem, str]]:
    """Problems with a correct program each; every test is two small numbers on stdin."""
    made = []
    for number in range(num_programs):
        source, answer = _TEMPLATES[number % len(_TEMPLATES)]
        pairs = [(13 * number + 7 * test, 1000 - 3 * test) for test in range(num_tests)]
        tests = tuple(TestCase(input=f"{a} {b}\n", expected=f"{answer(a, b, number)}\n") for a, b in pairs)
        made.append((_problem(f"bench/{number}", tests), source.format(k=number)))
    return made


def _problem(identity: str, tests: tuple[TestCase, ...]) -> Problem:
    return Problem(
        problem_id=identity, statement="", tests=tests, fn_name=None, starter_code="", prelude="",
        time_limit_s=float(TIME_LIMIT_S), memory_limit_mib=None, source="", family="",
        comparison=Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program=""),
    )  # fmt: skip
