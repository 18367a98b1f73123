import pytest

from nouscoder_jax.types import Comparison
from nouscoder_jax.verifier.checker import mismatch, value_mismatch


def comparison(kind, tolerance=0.0, ignore_case=False, relative=None):
    relative = tolerance if relative is None else relative
    return Comparison(kind=kind, abs_tolerance=tolerance, rel_tolerance=relative, ignore_case=ignore_case, program="")


EXACT, TOKENS, FLOAT, LINES = comparison("exact"), comparison("tokens"), comparison("float", 1e-6), comparison("lines")
NUMBERS = comparison("numbers")


@pytest.mark.parametrize(
    ("expected", "actual", "rule"),
    [
        ("5\n", b"5", TOKENS),
        ("1 2\n3\n", b"1\n2   3", TOKENS),
        ("1 2\n", b"1 2\r\n", TOKENS),
        ("a b\n", b"a b  \n\n", EXACT),
        ("", b"\n\n", EXACT),
        ("YES", b"yes", comparison("tokens", ignore_case=True)),
        ("0.5", b"0.50000001", FLOAT),
        ("1000000", b"1000000.9", FLOAT),
        ("1e3", b"1000", FLOAT),
        ("x 0.5", b"x .5", FLOAT),
        ("-0", b"0", FLOAT),
        ("é", "é".encode(), TOKENS),
        ("13\n", b"13.0\n", NUMBERS),
        ("2.50", b"2.5", NUMBERS),
        ("-0.0", b"0", NUMBERS),
        ("1 2\n3\n", b"\n 1 2 \n3\n\n", LINES),
        ("2 3", b"2.0   3e0", LINES),
        ("007", b"7", LINES),
        ("100000000000000000000.5", b"100000000000000000000.50", LINES),
    ],
)
def test_equal_outputs_agree(expected, actual, rule):
    assert mismatch(expected, actual, rule) is None


@pytest.mark.parametrize(
    ("expected", "actual", "rule"),
    [
        ("5", b"", TOKENS),
        ("5", b"5 5", TOKENS),
        ("5 5", b"5", TOKENS),
        ("2", b"2.0", TOKENS),
        ("2", b"2.0", EXACT),
        ("007", b"7", NUMBERS),
        ("2", b"2.1", NUMBERS),
        ("2", b"-2.0", NUMBERS),
        ("2", b"+2", NUMBERS),
        ("20", b"2", NUMBERS),
        ("1000", b"1e3", NUMBERS),
        ("2", "２.0".encode(), NUMBERS),
        ("2", b"2." + b"0" * 1_000_000, NUMBERS),
        ("1 2\n3", b"1\n2 3", LINES),
        ("YES", b"Yes", LINES),
        ("a  b", b"a b", LINES),
        ("12", b"1_2", LINES),
        ("12", "１２".encode(), LINES),
        ("2", b"nan", LINES),
        ("1", b"1e999999999", LINES),
        ("100000000000000000000", b"100000000000000000001", LINES),
        ("a  b", b"a b", EXACT),
        ("a\nb", b"a b", EXACT),
        ("YES", b"yes", TOKENS),
        ("12", b"1_2", FLOAT),
        ("12", "１２".encode(), FLOAT),
        ("5", b"5\0", TOKENS),
        ("5", b"\xff\xfe5", TOKENS),
        ("0.5", b"nan", FLOAT),
        ("0.5", b"inf", FLOAT),
        ("0.5", b"1e999999999", FLOAT),
        ("1e999", b"1e998", FLOAT),
        ("0", b"1e-3", FLOAT),
        ("100", b"100.9", comparison("float", 0.0005, relative=0.0)),
        ("1", b"9" * 1_000_000, FLOAT),
    ],
)
def test_other_outputs_do_not(expected, actual, rule):
    assert mismatch(expected, actual, rule) is not None


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("[1, 2]", b"[1, 2.0]"),
        ('{"a": 1, "b": [true]}', b'{"b": [true], "a": 1}'),
        ("null", b"null"),
        ("1" * 5000, b"1" * 5000),
    ],
)
def test_equal_values_agree(expected, actual):
    assert value_mismatch(expected, actual, EXACT) is None


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("[1, 2]", b"[2, 1]"),
        ("[1, 2]", b"[1, 2, 3]"),
        ('"1"', b"1"),
        ("null", b""),
        ("1", b"no json"),
        ("1", b"\xff"),
        ("[]", b"[" * 100_000),
        ("1" * 5000, b"1" * 4999 + b"2"),
        ("1.0", b"NaN"),
        ("0", b"null"),
    ],
)
def test_other_values_do_not(expected, actual):
    assert value_mismatch(expected, actual, EXACT) is not None


def test_returned_numbers_agree_within_the_tolerance_anywhere_in_the_value():
    assert value_mismatch('{"a": [0.5]}', b'{"a": [0.5000001]}', FLOAT) is None
    assert value_mismatch('{"a": [0.5]}', b'{"a": [0.51]}', FLOAT) is not None


@pytest.mark.parametrize(
    ("expected", "actual", "agree"),
    [
        ("998244351", "998244350", False),
        ("1 998244351", "1 998244350", False),
        ("10000000000000000000", "10000000000000000001", False),
        ("5", "+5", True),
        ("007", "7", True),
        ("998244351", "998244351.0", True),
        ("998244351.0", "998244350", True),
    ],
)
def test_two_plain_integers_are_compared_exactly_whatever_the_tolerance(expected, actual, agree):
    assert (mismatch(expected, actual.encode(), FLOAT) is None) == agree


@pytest.mark.parametrize(
    ("expected", "actual", "agree"),
    [("998244351", b"998244350", False), ("[1, 998244351]", b"[1, 998244350]", False), ("2", b"2.0000001", True)],
)
def test_two_integers_that_a_function_returned_are_too(expected, actual, agree):
    assert (value_mismatch(expected, actual, FLOAT) is None) == agree
