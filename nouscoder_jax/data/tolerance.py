"""The tolerance that a problem's statement grants.

In: a statement. Out: the largest absolute or relative error that it allows, or None. Sets that keep no checker with
their problems (LiveCodeBench) say it only in the statement, and their expected outputs have more digits than a float.
"""

from __future__ import annotations

import re

# "the relative or absolute error is at most 10^{-5}", in the ways that contests write the power.
_STATED = re.compile(
    r"(?:absolute|relative)[^.\n]{0,60}error[^\n]{0,160}?"
    r"(?:\b10\s*\^?\s*\{?\s*[-−–]\s*\{?\s*(\d{1,2})\b|\b1[eE]-(\d{1,2})\b|10⁻([⁰¹²³⁴-⁹]{1,2})|\b0\.(0*1)\b)",
    re.IGNORECASE,
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = 1, 15


def stated_tolerance(statement: str) -> float | None:
    """The absolute or relative error that the statement allows; None where it speaks of none.

    Example:
        stated_tolerance("The relative or absolute error must be at most 10^{-6}.")  # 1e-06
    """
    found = _STATED.search(statement)
    if found is None:
        return None
    power, scientific, superscript, decimal = found.groups()
    exponent = len(decimal) if decimal else int((power or scientific or superscript).translate(_SUPERSCRIPTS))
    return 10.0**-exponent if _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT else None
