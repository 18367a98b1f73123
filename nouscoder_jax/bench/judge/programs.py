"""What every way of judging is given in `bench.py judge`: problems with a correct two-line program each."""

from __future__ import annotations

from nouscoder_jax.types import Comparison, Problem, TestCase

_TEMPLATES = (
    ("a, b = map(int, input().split())\nprint(a + b + {k})", lambda a, b, k: a + b + k),
    ("a, b = map(int, input().split())\nprint(a * b - {k})", lambda a, b, k: a * b - k),
    ("numbers = [int(word) for word in input().split()]\nprint(max(numbers) * {k})", lambda a, b, k: max(a, b) * k),
    ("import sys\nprint(sum(map(int, sys.stdin.read().split())) % ({k} + 7))", lambda a, b, k: (a + b) % (k + 7)),
    ("import sys\nprint(min(map(int, sys.stdin.buffer.readline().split())) - {k})", lambda a, b, k: min(a, b) - k),
)
TIME_LIMIT_S = 15
Programs = list[tuple[Problem, str]]


def make_programs(*, num_programs: int, num_tests: int) -> Programs:
    """The same on every run; every test is two small numbers on stdin."""
    comparison = Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")
    made = []
    for number in range(num_programs):
        source, answer = _TEMPLATES[number % len(_TEMPLATES)]
        pairs = [(13 * number + 7 * test, 1000 - 3 * test) for test in range(num_tests)]
        problem = Problem(
            problem_id=f"bench/{number}", statement="", fn_name=None, starter_code="", prelude="",
            tests=tuple(TestCase(input=f"{a} {b}\n", expected=f"{answer(a, b, number)}\n") for a, b in pairs),
            time_limit_s=float(TIME_LIMIT_S), memory_limit_mib=None, source="", family="", comparison=comparison,
        )  # fmt: skip
        made.append((problem, source.format(k=number)))
    return made
