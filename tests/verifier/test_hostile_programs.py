"""Every hostile or wrong program of the catalogue gets its outcome, and so do the programs after it in its sandbox.

The rig keeps a sandbox for many rollouts, so what a program leaves behind would meet the one that is judged after it,
which adds, on a right and on a wrong test.
"""

import pytest
from hostile_programs import CASES, SLOW
from judge_case import RIGHT, SUMS
from judge_rig import make_problem

from nouscoder_jax.types import Outcome

INNOCENT = make_problem((SUMS[0], ("12 34\n", "45\n")))
"""Of two tests a program that adds passes the first and fails the second."""
PLACE = "print(open('/proc/1/stat').read().rpartition(')')[2].split()[19])"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def test_a_hostile_program_gets_its_outcome_and_harms_no_other(rig, name):
    case = CASES[name]
    verdict = rig.judge(case.problem(), case.program, stop_at_first_failure=False)
    assert verdict.outcome in case.outcomes, verdict
    assert verdict.tests_passed == case.passed, verdict
    assert "ended its sandbox" not in verdict.detail, verdict
    innocent = rig.judge(INNOCENT, RIGHT, stop_at_first_failure=False)
    assert (innocent.outcome, innocent.tests_passed) == (Outcome.WRONG_ANSWER, 1), innocent
    assert innocent.detail.startswith("test 2:"), innocent


def test_the_innocent_programs_run_where_the_hostile_one_ran(rig):
    problem = make_problem([("", "no number\n")])
    details = {rig.judge(problem, PLACE, stop_at_first_failure=False).detail for _ in range(3)}
    assert len(details) == 1, details


def test_a_program_that_is_not_rejected_is_one_that_prints_the_answer():
    for name, case in CASES.items():
        assert Outcome.ACCEPTED not in case.outcomes or case.passed == len(case.tests), name
        assert 0 <= case.passed <= len(case.tests), name
