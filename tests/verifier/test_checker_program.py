"""Problems with several right answers are decided by a program, in a sandbox that the judged program never sees."""

import dataclasses
import json

import pytest
from judge_rig import make_problem

from nouscoder_jax.config import UserError
from nouscoder_jax.data.problems import read_problems, write_problems
from nouscoder_jax.types import Comparison, JudgeError, Outcome
from nouscoder_jax.verifier.verify import limits_of, verify

# Two numbers, in any order, that sum up to the input.
SUM = """
def check(input, expected, output):
    a, b = map(int, output.split())
    return a + b == int(input)
"""


def problem(program, tests=(("10", "4 6"), ("7", "3 4"))):
    comparison = Comparison(kind="program", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program=program)
    return dataclasses.replace(make_problem(tests), comparison=comparison)


def judge(rig, checker, program, **changes):
    return rig.run(
        verify(problem(checker, **changes), program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True)
    )


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("n = int(input())\nprint(1, n - 1)", Outcome.ACCEPTED),
        ("n = int(input())\nprint(n - 1)\nprint(1)", Outcome.ACCEPTED),
        ("n = int(input())\nprint(n, n)", Outcome.WRONG_ANSWER),
        ("print('no numbers')", Outcome.WRONG_ANSWER),
        ("", Outcome.WRONG_ANSWER),
        ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')", Outcome.WRONG_ANSWER),
        ("print(True)", Outcome.WRONG_ANSWER),
        ("raise ValueError", Outcome.RUNTIME_ERROR),
    ],
)
def test_the_problems_own_program_decides(rig, program, outcome):
    assert judge(rig, SUM, program).outcome is outcome


def test_an_output_that_the_checker_cannot_read_is_wrong_and_the_reason_is_told(rig):
    verdict = judge(rig, SUM, "print('x')")
    assert "cannot read the output" in verdict.detail and "ValueError" in verdict.detail


@pytest.mark.parametrize(
    "checker", ["def check(i, e, o): return 1", "def check(i, e, o): raise KeyError", "x = 1", "("]
)
def test_a_checker_that_fails_on_the_expected_output_is_the_judges_failure(rig, checker):
    with pytest.raises(JudgeError, match="checker of problem 'p' fails on the expected output"):
        judge(rig, checker, "print(1)")


def test_nothing_else_runs_in_a_sandbox_that_has_seen_expected_outputs(rig):
    where = """
import os
def f():  # when pid 1 was started, and the namespace and name of its host
    started = open('/proc/1/stat').read().rpartition(')')[2].split()[19]
    return [started, os.stat('/proc/self/ns/pid').st_ino, os.uname().nodename]
"""
    limits = limits_of(make_problem([("", "")]), rig.config)

    async def visit(*, retire):
        async with rig.sandbox.session(where, fn_name="f", limits=limits) as session:
            if retire:
                session.retire()
            return (await session.run("[]")).stdout

    retired, kept, again = [rig.run(visit(retire=retire)) for retire in (True, False, False)]
    assert kept == again  # so that the other one means something
    assert retired != kept


def test_a_file_keeps_the_checker(tmp_path):
    path = tmp_path / "p.jsonl"
    write_problems(path, [problem(SUM)], solutions=[])
    assert read_problems(path) == [problem(SUM)]


def test_a_problem_with_several_right_answers_and_no_program_is_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    write_problems(path, [problem(SUM)], solutions=[])
    record = json.loads(path.read_text())
    for changes in ({"checker": "special"}, {"checker_program": None}, {"checker_program": ""}):
        path.write_text(json.dumps(record | changes) + "\n")
        with pytest.raises(UserError, match=r"line 1: .*program"):
            read_problems(path)
