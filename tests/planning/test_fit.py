"""The largest size that fits, on lines and bent lines that a test knows."""

import pytest

from nouscoder_jax.planning.fit import largest_that_fits


def search(peak, *, known, limit, step=1024, cap=131072, compiled=None):
    def peak_of(size):
        if compiled is not None:
            compiled.append(size)
        return peak(size)

    return largest_that_fits(peak_of, {size: peak(size) for size in known}, limit_bytes=limit, step=step, cap=cap)


def test_on_a_line_the_first_guess_is_the_answer_and_is_compiled():
    compiled = []
    fit = search(lambda size: 10_000 + 2 * size, known=(8192, 16384), limit=10_000 + 2 * 57344, compiled=compiled)
    assert (fit.size, fit.compiled, compiled) == (57344, True, [57344])


@pytest.mark.parametrize("bend", [1e-5, -2e-6])
def test_where_the_line_bends_the_answer_still_fits_and_is_near(bend):
    def peak(size):
        return int(10_000 + 2 * size + bend * size**2)

    limit = 120_000
    fit = search(peak, known=(8192, 16384), limit=limit)
    true = max(size for size in range(1024, 131073, 1024) if peak(size) <= limit)
    assert fit.compiled and peak(fit.size) <= limit and true - fit.size <= 2048


def test_the_answer_never_passes_the_cap():
    fit = search(lambda size: size, known=(1024, 2048), limit=10**9)
    assert (fit.size, fit.at_cap) == (131072, True)


def test_a_known_size_that_does_not_fit_bounds_the_answer():
    fit = search(lambda size: size, known=(8192, 16384), limit=10_000)
    assert (fit.size, fit.peak_bytes) == (9216, 9216)


def test_without_time_the_line_answers_and_says_so():
    fit = largest_that_fits(lambda _: None, {1: 100, 2: 200}, limit_bytes=550, step=1, cap=256)
    assert (fit.size, fit.peak_bytes, fit.compiled) == (5, 500, False)


def test_where_nothing_fits_the_size_is_zero():
    assert search(lambda size: 10**6 + size, known=(1024, 2048), limit=1000).size == 0
