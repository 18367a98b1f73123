"""Every hostile or wrong program of the catalogue gets its outcome, and so do the programs after it in its sandbox.

The bench keeps a sandbox for many rollouts, so what a program leaves behind would meet the two innocent ones after it.
"""

import pytest
from hostile_programs import CASES, GROUPS
from judge_bench import make_problem
from judge_case import RIGHT, SUMS

from nouscoder_jax.types import Outcome

INNOCENT = make_problem(SUMS[:1])
PLACE = "print(open('/proc/1/stat').read().rpartition(')')[2].split()[19])"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if case.slow else []) for name, case in CASES.items()]
)
def test_a_hostile_program_gets_its_outcome_and_harms_no_other(bench, name):
    case = CASES[name]
    verdict = bench.judge(case.problem(), case.program, stop_at_first_failure=False)
    assert verdict.outcome in case.outcomes, verdict
    assert verdict.tests_passed == case.passed, verdict
    assert "ended its sandbox" not in verdict.detail, verdict
    right = bench.judge(INNOCENT, RIGHT, stop_at_first_failure=False)
    assert right.outcome is Outcome.ACCEPTED, right
    wrong = bench.judge(INNOCENT, "print(34)", stop_at_first_failure=False)
    assert wrong.outcome is Outcome.WRONG_ANSWER, wrong


def test_the_innocent_programs_run_where_the_hostile_one_ran(bench):
    problem = make_problem([("", "no number\n")])
    details = {bench.judge(problem, PLACE, stop_at_first_failure=False).detail for _ in range(3)}
    assert len(details) == 1, details


def test_the_catalogue_of_hostile_programs_does_not_shrink():
    assert len(CASES) >= 150
    assert min(map(len, GROUPS.values())) >= 5


def test_a_program_that_is_not_rejected_is_one_that_prints_the_answer():
    for name, case in CASES.items():
        assert Outcome.ACCEPTED not in case.outcomes or case.passed == len(case.tests), name
        assert 0 <= case.passed <= len(case.tests), name
