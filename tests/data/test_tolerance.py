import pytest

from nouscoder_jax.data.tolerance import stated_tolerance


@pytest.mark.parametrize(
    ("statement", "tolerance"),
    [
        ("the relative or absolute error from the true value is at most 10 ^ {-5}.", 1e-5),
        ("if its absolute or relative error does not exceed $10^{-6}$", 1e-6),
        ("correct if the absolute error is within 10^-9", 1e-9),
        ("its relative or absolute error doesn't exceed 10 - 6.", 1e-6),
        ("relative or absolute error must be at most 1e-4", 1e-4),
        ("The absolute or relative error must be below 10⁻⁸.", 1e-8),
        ("an absolute error of at most 0.001 is fine", 1e-3),
    ],
)
def test_a_stated_tolerance_is_found(statement, tolerance):
    assert stated_tolerance(statement) == pytest.approx(tolerance, rel=1e-12)


@pytest.mark.parametrize(
    "statement",
    [
        "Print pi to N digits.",
        "The error of the measurement is 10.",
        "An absolute value. Errors happen.",
        "absolute or relative error 10^-99",
        "",
        "the absolute error " + "x" * 1000 + " 10^-6",
    ],
)
def test_none_is_found_where_none_is_stated(statement):
    assert stated_tolerance(statement) is None


def test_a_long_hostile_statement_takes_no_time():
    assert stated_tolerance("absolute error " * 20_000) is None
