"""Scores by hand-worked numbers and by scipy's own bootstrap and permutation test."""

import math

import numpy as np
import pytest
from scipy import stats

from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import score
from nouscoder_jax.evaluation.score import Sample
from nouscoder_jax.types import Comparison, Problem


def problem(problem_id, **fields):
    return Problem(
        problem_id=problem_id,
        statement="",
        tests=(),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=None,
        memory_limit_mib=None,
        comparison=Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program=""),
        source="test",
        family="",
        **fields,
    )


def samples(problem_id, letters, tokens=None):
    """One sample a letter: a accepted, w wrong."""
    return [
        Sample(
            problem_id=problem_id,
            passed=letter == "a",
            num_tokens=length,
            truncated=False,
            outcome="accepted" if letter == "a" else "wrong_answer",
        )
        for letter, length in zip(letters, tokens or [1] * len(letters), strict=True)
    ]


PROBLEMS = [
    problem("p", difficulty="easy", platform="atcoder", date="2024-08-01"),
    problem("q", difficulty="hard", platform="atcoder", date="2024-08-31"),
    problem("r", difficulty="easy", date="2024-09-01"),
    problem("unjudged", difficulty="medium"),
]
SAMPLES = samples("p", "aaaa") + samples("q", "awww") + samples("r", "ww")


def numbers(rows):
    return {name: (row.mean, row.num_problems) for name, row in rows.items()}


def test_pass_at_1_is_the_mean_over_samples_then_problems():
    whole = score.score(SAMPLES, PROBLEMS).pass_at_1
    assert (whole.mean, whole.num_problems) == (pytest.approx((1 + 1 / 4 + 0) / 3), 3)
    assert (whole.low, whole.high) == (0.0, 1.0)  # 1 of 27 resamples is (r, r, r), 1 of 27 (p, p, p): over 2.5 %


def test_parts_have_their_own_means_and_problems():
    parts = score.score(SAMPLES, PROBLEMS)
    assert numbers(parts.by_difficulty) == {"easy": (0.5, 2), "hard": (0.25, 1)}
    assert numbers(parts.by_platform) == {"atcoder": (0.625, 2), "not stated": (0.0, 1)}
    assert numbers(parts.by_month) == {"2024-08": (0.625, 2), "2024-09": (0.0, 1)}


def test_a_field_that_no_problem_has_has_no_rows():
    parts = score.score(samples("p", "aw"), [problem("p")])
    assert (parts.by_difficulty, parts.by_platform, parts.by_month) == ({}, {}, {}) and parts.parts() == {}


def test_a_completion_longer_than_a_row_counts_as_failed_in_it():
    drawn = samples("p", "aaw", [10, 11, 5]) + samples("q", "aw", [20, 30])
    rows = score.score(drawn, [problem("p"), problem("q")], contexts=(20, 10, 19)).by_context
    assert {tokens: row.mean for tokens, row in rows.items()} == {
        10: pytest.approx((1 / 3 + 0) / 2),
        19: pytest.approx((2 / 3 + 0) / 2),
        20: pytest.approx((2 / 3 + 1 / 2) / 2),
    }
    assert list(rows) == [10, 19, 20]


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(3).binomial(16, 0.4, size=120) / 16
    ours = score.estimate(list(values))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=9).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert ours == score.estimate(list(values))


def test_an_interval_of_equal_values_has_no_width_and_of_none_is_not_a_number():
    same = score.estimate([0.25] * 7)
    assert (same.low, same.mean, same.high) == (0.25, 0.25, 0.25)
    assert math.isnan(score.estimate([]).mean)


@pytest.mark.parametrize(("words", "needle"), [("40", "got 40"), ("8,x", "got '8,x'"), ("0", "got 0"), ("", "got ''")])
def test_lengths_that_no_completion_has_are_refused(words, needle):
    with pytest.raises(UserError, match=needle):
        score.parse_contexts(words, max_tokens=39)


def test_the_runs_own_limit_is_a_length():
    assert score.parse_contexts("39, 8", max_tokens=39) == (39, 8)


def test_ten_better_and_none_worse_is_exact():
    ours, others = {str(i): 1.0 for i in range(10)}, {str(i): 0.5 for i in range(10)}
    paired = score.compare(ours, others, other="b.json")
    assert paired.p_value == 2 / 2**10 and (paired.num_better, paired.num_worse) == (10, 0)
    assert (paired.difference.mean, paired.difference.num_problems) == (0.5, 10)


def test_a_run_does_not_differ_from_itself():
    means = {str(i): i / 100 for i in range(100)}
    paired = score.compare(means, means, other="b.json")
    assert (paired.p_value, paired.difference.mean, paired.num_better, paired.num_worse) == (1.0, 0.0, 0, 0)


@pytest.mark.parametrize("size", [8, 60])
def test_the_p_value_is_that_of_scipy(size):
    generator = np.random.default_rng(size)
    ours, others = generator.binomial(8, 0.55, size=size) / 8, generator.binomial(8, 0.45, size=size) / 8
    theirs = stats.permutation_test(
        (ours, others), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=9_999, rng=1
    )
    assert score.sign_flip_p_value(list(ours - others)) == pytest.approx(theirs.pvalue, abs=0.01)


def test_runs_on_other_problems_are_refused():
    with pytest.raises(UserError, match="2 of this run are missing there, 1 of that run are missing here, such as a"):
        score.compare({"a": 1.0, "b": 1.0, "c": 0.0}, {"c": 1.0, "d": 0.0}, other="b.json")
