"""What other people's bug reports and our own attacks found in judges: tests/verifier/reports/, judged or refused.

A file of labelled programs is judged as its labels say; a file that no judge can understand is refused by line.
"""

from pathlib import Path

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.data.encodings import function_test
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.verify import verify

REPORTS = Path(__file__).parent / "reports"
REFUSED = {
    "apps_shape": "'tests' is a dict",
    "bad_number": "NaN is no JSON",
    "lines_of_json": "expected a JSON list of positional arguments (Extra data)",
    "no_tests": "'tests' is empty",
    "null_tests": "'tests' is null",
    "object": "expected a JSON list of positional arguments",
    "single_quotes": "expected a JSON value",
    "text_splat": "expected a JSON list of positional arguments",
    "text_tests": "'tests' is a str",
}
CONVERTED = {"wrapped_output"}
"""Fine as it stands; only who knows the set can tell that it means something else."""
JUDGED = sorted({path.stem for path in REPORTS.glob("*.jsonl")} - REFUSED.keys() - CONVERTED)


def judged(rig, problem, code):
    return rig.run(verify(problem, code, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=False))


@pytest.mark.parametrize("name", JUDGED)
def test_labelled_programs_are_judged_as_they_are_labelled(local_rig, name):
    path = REPORTS / f"{name}.jsonl"
    by_id = {problem.problem_id: problem for problem in read_problems(path)}
    wrong = []
    for solution in read_solutions(path):
        verdict = judged(local_rig, by_id[solution.problem_id], solution.code)
        if (solution.label == "accepted") != (verdict.outcome is Outcome.ACCEPTED):
            wrong.append((solution.problem_id, solution.solution_index, solution.label, verdict.detail))
    assert wrong == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_judged_is_refused_by_line(name):
    path = REPORTS / f"{name}.jsonl"
    with pytest.raises(UserError) as error:
        read_problems(path)
    assert f"{path}, line 1: " in str(error.value) and REFUSED[name] in str(error.value)


@pytest.mark.parametrize(
    ("given", "expected", "encoding", "parameters", "wanted"),
    [
        ("3\n4", "7", "lines", (), ("[3, 4]", "7")),
        ('[1]\n"a b"\n', '"x"', "lines", (), ('[[1], "a b"]', '"x"')),
        ('{"b": 4, "a": 3}', "7", "object", ("a", "b"), ("[3, 4]", "7")),
        ("[4]", "[true]", "wrapped", (), ("[4]", "true")),
        ([4], [[1]], "wrapped", (), ("[4]", "[1]")),
        ("(1, 'a')", "'abc'", "python", (), ('[1, "a"]', '"abc"')),
        ("[True, None]", "True", "python", (), ("[true, null]", "true")),
    ],
)
def test_known_encodings_are_converted(given, expected, encoding, parameters, wanted):
    test = function_test(given, expected, encoding=encoding, parameters=parameters)
    assert (test.input, test.expected) == wanted


@pytest.mark.parametrize(
    ("given", "expected", "encoding"),
    [
        ("3,", "7", "lines"),
        ("3", "", "lines"),
        ("3", None, "lines"),
        ([3], "7", "lines"),
        ('{"c": 4}', "7", "object"),
        ("[4]", "[1, 2]", "wrapped"),
        ("4", "[1]", "wrapped"),
        ("f(1)", "1", "python"),
        ("5", "1", "python"),
        ("(1,)", "{1}", "python"),
        ("(1e999,)", "1", "python"),
        ("1", "1", "nobody's"),
    ],
)
def test_what_is_not_in_its_encoding_is_refused(given, expected, encoding):
    with pytest.raises(ValueError, match="expected"):
        function_test(given, expected, encoding=encoding, parameters=("a",))
