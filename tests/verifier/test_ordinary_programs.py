"""Every ordinary program of the catalogue is accepted, and what a program leaves running delays no verdict."""

import time

import pytest
from ordinary_programs import CASES, FUNCTIONS, LEFTOVER

from nouscoder_jax.types import Outcome


@pytest.mark.parametrize("name", CASES)
def test_an_ordinary_program_is_accepted(rig, name):
    case = CASES[name]
    started = time.monotonic()
    verdict = rig.judge(case.problem(), case.program, stop_at_first_failure=False)
    assert verdict.outcome is Outcome.ACCEPTED, verdict
    assert verdict.tests_passed == len(case.tests)
    if name in LEFTOVER:  # what is left sleeps for 60 s, in each of the two tests: nobody waited for it
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_ordinary_function_is_accepted(rig, name):
    case = FUNCTIONS[name]
    verdict = rig.judge(case.problem(), case.program, stop_at_first_failure=False)
    assert verdict.outcome is Outcome.ACCEPTED, verdict
    assert verdict.tests_passed == len(case.tests)
