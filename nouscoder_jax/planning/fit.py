"""How large it may get: the longest rows and the most rows that fit a GPU, with few compilations.

In: a function that tells the peak bytes of a size, by compiling it. Out: `Fit`. Memory grows along a line, so two sizes
give the line, the line gives the answer, and the answer is compiled itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_COMPILATIONS = 3
"""Compilations of one search beyond the two that are there."""


NEAR = 0.95
"""With no time left, a compiled size is the answer where it is so near to what the line promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The largest size that fits.

    Example:
        Fit(size=57344, peak_bytes=71_000_000_000, compiled=True, at_cap=False)
    """

    size: int
    """0: not even the smallest."""
    peak_bytes: int
    compiled: bool
    """True: this very size was compiled. False: read off the line."""
    at_cap: bool
    """True: the search stopped here because nothing larger was asked for."""


def largest_that_fits(
    peak_of: Callable[[int], int | None],
    known: dict[int, int],
    *,
    limit_bytes: int,
    step: int,
    cap: int,
) -> Fit:
    """The largest multiple of `step`, at most `cap`, whose peak is at most `limit_bytes`.

    `known` has the peaks of two sizes or more, which give the first line; `peak_of` compiles a size (None: there is no
    time for it). Each further size is predicted from the line through the two known sizes nearest to the answer. Sizes
    above the answer were either compiled and did not fit, or the line says so.
    """
    known = dict(known)
    for _ in range(MAX_COMPILATIONS):
        size = _predict(known, limit_bytes=limit_bytes, step=step, cap=cap)
        if size <= 0 or size in known:
            break
        peak = peak_of(size)
        if peak is None:
            near = max((one for one, known_peak in known.items() if known_peak <= limit_bytes), default=0)
            if near >= NEAR * size:
                return Fit(size=near, peak_bytes=known[near], compiled=True, at_cap=False)
            return Fit(size=size, peak_bytes=round(_line(known, limit_bytes)(size)), compiled=False, at_cap=size == cap)
        known[size] = peak
    fitting = [size for size, peak in known.items() if peak <= limit_bytes]
    if not fitting:
        size = max(0, _predict(known, limit_bytes=limit_bytes, step=step, cap=cap))
        return Fit(size=size, peak_bytes=round(_line(known, limit_bytes)(size)), compiled=False, at_cap=False)
    size = max(fitting)
    return Fit(size=size, peak_bytes=known[size], compiled=True, at_cap=size == cap)


def _predict(known: dict[int, int], *, limit_bytes: int, step: int, cap: int) -> int:
    """The largest size that the line lets in, below every size that is known not to fit."""
    line = _line(known, limit_bytes)
    per_size = line(1) - line(0)
    size = cap if per_size <= 0 else min(cap, int((limit_bytes - line(0)) / per_size) // step * step)
    failing = [known_size for known_size, peak in known.items() if peak > limit_bytes]
    return min([size, *[(known_size - 1) // step * step for known_size in failing]])


def _line(known: dict[int, int], limit_bytes: int) -> Callable[[float], float]:
    """Peak bytes by size, through the two known sizes whose peaks are nearest to the limit."""
    (size0, peak0), (size1, peak1) = sorted(known.items(), key=lambda item: abs(item[1] - limit_bytes))[:2]
    per_size = (peak1 - peak0) / (size1 - size0)
    return lambda size: peak0 + per_size * (size - size0)
