"""What statements grant: tolerances and letters in any case."""

import json
import time

import pytest

from nouscoder_jax.data.explain import explain
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.tolerance import granted, stated_tolerance

GRANTED = """
1e-5  the relative or absolute error from the true value is at most 10 ^ {-5}.
1e-6  if its absolute or relative error does not exceed $10^{-6}$
1e-9  correct if the absolute error is within 10^-9
1e-6  its relative or absolute error doesn't exceed 10 - 6.
1e-4  relative or absolute error must be at most 1e-4
1e-8  The absolute or relative error must be below 10⁻⁸.
1e-3  an absolute error of at most 0.001 is fine
1e-5  Answers within 10^-5 of the actual answer will be accepted.
1e-5  Answers within 10-5 of the actual answer will be accepted.
1e-5  Answers within $10^{-5}$ of the actual value are accepted.
1e-5  Solutions within 10-5 from the actual answer are considered accepted.
1e-5  Any answer with a calculation error less than 10-5 will be accepted.
1e-5  The output should not have an error greater than 10^{-5}.
1e-5  You may print any number of digits, but the error must be less than 0.00001.
1e-6  Print a third of n with an error of at most 10^-6, absolute or relative.
1e-6  The relative error must be at most 10<sup>-6</sup>.
1e-6  The error must not exceed 10<sup>&minus;6</sup>.
1e-6  The relative error must be at most 10**-6.
1e-5  Your answer will be accepted if it differs from the correct answer by at most 1e-5.
1e-9  The answer will be considered valid if it differs from the correct one by at most 10 - 9.
1e-6  Your answer is accepted if the difference between it and the judge's answer is at most 10^-6
1e-9  Your answer is considered correct if its absolute or relative error doesn't exceed $$$10^{-9}$$$.
1e-6  Absolute or relative error of the answer must not exceed 10^{ - 6}.
1e-9  absolute or relative error in the answer should not exceed 10 - 9
1e-9  relative or absolute error of each number doesn't exceed 10^{ - 9}
1e-4  Your answer should be within absolute or relative error 10^-4 of the judge's answer.
1e-6  The answer will be accepted if it is within 0.000001 of the correct one.
1e-6  Your answer is accepted if and only if $\\frac{|a - b|}{\\max{(1, |b|)}} \\le 10^{-6}$.
1e-9  the absolute error or the relative error is ≤ 10^{-9}
1e-6  Relative error of your answer must not exceed 1 \\times 10^{-6}
5e-4  Give it with 3 decimals, i.e., within 5 \\cdot 10^{-4} of the correct answer.
1e-6  Output with a precision of at least 10^-6
1e-2  Your answer must be correct within a tolerance of 0.01
1e-6  The maximum allowed error is 10^{-6}.
1e-6  Answers are accepted if they are off by at most 1e-6
"""

NOT_GRANTED = """
Print pi to N digits.
The error of the measurement is 10.
An absolute value. Errors happen.
absolute or relative error 10^-99
The absolute error of the sensor is 0.1 V
The absolute error of the sensor is at most 0.1 V.
The absolute error of the sensor is 0.1. Print its range.
The relative error of each measurement is less than 0.01.
A scale has an absolute error of at most 0.1 kg.
The thermometer is accurate to within 0.1 degrees.
Note that a rounding error of 0.1 in the sensor's value makes it useless.
You are given the error e, 0.01 ≤ e ≤ 0.1
The probability of an error is at most 0.01
All points lie within 0.1 of the line.
Each real number has at most 10 decimals and is at least 0.001.
Numbers differ by at least 0.01 from each other.
Print the answer modulo 998244353.
Print it rounded to 0.01.
there are 10-20 errors
"""

ANY_CASE = """
You can print each letter in any case (for example yEs and YES are both a yes).
The case of the letters does not matter.
You may print every letter in any case (upper or lower).
You can output the answer in any case (upper or lower).
You can print "YES" and "NO" in any case.
You can output each letter in any register.
You may print each character in either case
All letters can be displayed in any case.
The checker is case-insensitive.
Letter case is ignored.
Upper case or lower case letters do not matter.
You may print each character of the string in uppercase or lowercase (for example, yEs and YES are the same).
Each letter of the output may be printed in either uppercase or lowercase.
For each test case print YES (case insensitive) if you can, or NO (case insensitive) otherwise.
"""

NOT_ANY_CASE = """
In any case, print the answer.
Print -1 in any case where no path exists.
Names are case insensitive; count distinct names.
Print it in lower case.
The letter is delivered in any case.
Convert all letters to uppercase.
Words that differ in the case of letters are the same word.
"""


def lines(text):
    return text.strip().splitlines()


@pytest.mark.parametrize("line", lines(GRANTED))
def test_a_stated_tolerance_is_found(line):
    tolerance, statement = line.split("  ", 1)
    assert stated_tolerance(statement) == pytest.approx(float(tolerance), rel=1e-12)
    assert stated_tolerance(f"You get n numbers.\n{statement}\nInput\n3") == pytest.approx(float(tolerance), rel=1e-12)


@pytest.mark.parametrize("statement", [*lines(NOT_GRANTED), "", "the absolute error " + "x" * 1000 + " 10^-6"])
def test_none_is_found_where_none_is_stated(statement):
    assert stated_tolerance(statement) is None


@pytest.mark.parametrize("statement", lines(ANY_CASE))
def test_letters_in_any_case(statement):
    assert granted(statement).any_case


@pytest.mark.parametrize("statement", lines(NOT_ANY_CASE))
def test_letters_as_they_are(statement):
    assert not granted(statement).any_case


@pytest.mark.parametrize(
    "part",
    ["absolute error ", "error 10^-5x ", "10^-5 ", "<sup>", "letter ", 'print "', "upper case ", "$", ". ", "\n "],
)
def test_no_statement_of_300_kb_takes_long(part):
    def seconds(length):
        """Of the processor; the least of five, to which a millisecond is nothing."""
        statement = part * (length // len(part))
        times = []
        for _ in range(5):
            began = time.process_time()
            granted(statement)
            times.append(time.process_time() - began)
        return min(times) + 1e-3

    assert seconds(300_000) < 30 * seconds(30_000)  # ten times where it grows with the length, else a hundred


def problem(tmp_path, **fields):
    record = {"id": "a", "io": "stdin", "fn_name": None, "time_limit_s": None, "memory_limit_mb": None}
    record |= {"tests": [{"input": "[1]", "output": "1"}], "checker": "tokens"} | fields
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    return read_problems(tmp_path / "p.jsonl")


WITHIN = "Answers within 10^-5 of the actual answer will be accepted."
ANY = "You can print each letter in any case."


@pytest.mark.parametrize(
    ("fields", "kind", "ignore_case"),
    [
        ({"statement": WITHIN}, "float", False),
        ({"statement": WITHIN, "checker": "exact"}, "exact", False),
        ({"statement": WITHIN, "checker": "exact", "io": "function", "fn_name": "f"}, "float", False),
        ({"statement": WITHIN, "exact_bytes_ok": False}, "float", True),
        ({"statement": ANY}, "tokens", True),
        ({"statement": ANY, "checker": "lines"}, "lines", True),
        ({"statement": f"{WITHIN} {ANY}"}, "float", True),
        ({"statement": "Add."}, "tokens", False),
    ],
)
def test_the_statement_decides_how_a_problem_is_compared(tmp_path, fields, kind, ignore_case):
    (one,) = problem(tmp_path, **fields)
    assert (one.comparison.kind, one.comparison.ignore_case) == (kind, ignore_case)


def test_what_was_derived_is_explained(tmp_path):
    told = "\n".join(explain(problem(tmp_path, statement=f"Mean. {WITHIN} {ANY}"), "a"))
    assert "comparison: float, absolute 1e-05 or relative 1e-05; letters compare without case" in told
    assert f"derived: tolerance 1e-05, absolute or relative: '{WITHIN}'" in told
    assert f"derived: letters compare without case: '{ANY}'" in told
    assert "derived: nothing" in "\n".join(explain(problem(tmp_path, statement="Add."), "a"))


NO_TOLERANCE = [
    "Given an error of 0.01, output the number of steps.",
    "Iterate until the error is less than 10^-6.",
    "Stop when two values differ by less than 10^-6 and print the number of iterations.",
    "It is guaranteed that no two values differ by less than 10^-6.",
    "All points are within 0.1 of the answer point.",
    "The robot stops within 0.1 of the result cell.",
    "Output the answer; the tolerance of the bolt is 0.1.",
    "Points within 0.1 of one another are the same.",
    "A baker accepts a loaf if its weight differs from the value by at most 0.1.",
    "Two answers differ if they differ by at least 0.1.",
    "Print the number of readings whose error is at most 0.1.",
    "Find the number of values within 0.05 of the average value.",
    "Print how many outputs of the sensor differ from the real value by more than 0.1.",
    "Numbers are correct to 0.01 inches.",
    "The accepted tolerance of the machine is 0.1.",
    "The absolute error of the sensor is 0.1 V",
]
A_TOLERANCE = [
    "The checker ignores differences below 10^-6.",
    "Print the answer with precision not less than 10^{-9}.",
    "An answer with error 10^-3 is acceptable.",
    "Your answer is accepted if its relative error is at most 1/1000000.",
    "Answers within a 0.00001 tolerance are accepted.",
    "The error must be not exceeding one millionth (10^-6).",
    "Your answer will be considered correct if its absolute or relative error doesn't exceed 10^{-6}.",
    "Print the expected number of moves with relative error at most 1e-6.",
    "Answers within 10^-5 of the actual answer are accepted.",
    "The output must not differ from the correct value by more than 1e-6.",
    "Print the answer with accuracy of at least 10^-6.",
    "Answers within 10<sup>-6</sup> of the true value will be accepted.",
]
ANY_CASE = [
    "You may print every letter in any case you want (so, for example, the strings yEs, yes, Yes will be accepted).",
    'You can print your answer in any case. For example, "yES" is fine.',
    "You can print each character in an arbitrary case (upper or lower).",
    "You can output letters in an arbitrary case (upper or lower).",
    "You can choose the case (lower or upper) for each letter arbitrary.",
    "You can choose the case (lower or upper) for each letter arbitrarily.",
    "You can print the answer in any case.",
    "You can print each letter in any case you like.",
    "The output is not case-sensitive.",
    "Answers are not case sensitive.",
    "Case does not matter.",
    "Output YES or NO. Case is ignored.",
    "the checker ignores case",
    "You may print the letters in lower- or uppercase.",
    "You can print each letter in any case (upper or lower).",
    'You can output the answer in any case (upper or lower). For example, the strings "yEs" will be recognized.',
]
THE_CASE = [
    "The search is case insensitive, print the matching lines.",
    "Usernames are case-insensitive; output each user once.",
    "Print the letters in upper case or lower case depending on n.",
    "The letter case of the input does not matter.",
    "Print the string with each letter in uppercase or lowercase as in the input.",
    "Print -1 in any case where there is no answer.",
    "In any case, print the answer.",
    "It contains letters 'a', 'b' (ignoring case), and 'c' twice.",
    "In this case, it doesn't matter what is chosen.",
]


@pytest.mark.parametrize("statement", NO_TOLERANCE)
def test_an_error_of_the_story_grants_nothing(statement):
    assert granted(statement).tolerance is None


@pytest.mark.parametrize("statement", A_TOLERANCE)
def test_an_error_of_the_answer_is_granted_however_it_is_said(statement):
    assert granted(statement).tolerance is not None


@pytest.mark.parametrize("statement", ANY_CASE)
def test_any_case_is_granted_however_it_is_said(statement):
    assert granted(statement).any_case


@pytest.mark.parametrize("statement", THE_CASE)
def test_a_case_of_the_story_grants_nothing(statement):
    assert not granted(statement).any_case
