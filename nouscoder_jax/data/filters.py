"""Which problems of a set are kept by what they say of themselves.

In: Problem, options of a command line. Out: the reason for which it is left out, or none.
"""

from __future__ import annotations

import argparse
import fnmatch
from dataclasses import dataclass
from datetime import date

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Problem

NO_DATE, OTHER_DATE, OTHER_LICENSE, FEW_TESTS = "no date", "outside the dates", "another license", "too few tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a problem must have.

    Example:
        Filters(dates=("2024-08-01", "2025-05-01"), licenses=("MIT*", "Apache-2.0*"), least_tests=5)
    """

    dates: tuple[str, str] | None = None
    """First and last day, both included; a problem without a date is left out. None: all."""
    licenses: tuple[str, ...] = ()
    """Patterns, of which a problem's license matches one, letters of any case; empty: all."""
    least_tests: int = 1
    programs: int = 4
    """Labelled programs of a problem that are kept, the first of each label: sets have up to hundreds."""
    held_out: str = ""
    """Problem file or prepared folder whose problems are left out, by what they say; empty: none."""
    verdicts: str = ""
    """Verdicts of the set's own programs (data/references.py): problems whose right ones fail are left out; empty: none
    is."""
    solved: str = ""
    """Recorded rollouts (data/solved.py): problems that were solved every time are left out; empty: none."""
    solved_of: int = 8
    """Samples that such a problem must have."""
    likeness: float = 0.0
    """Share from which on two statements are nearly the same, and the later is left out; 0: all are kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.likeness <= 1 or self.least_tests < 1 or self.solved_of < 1 or self.programs < 0:
            raise UserError(
                f"got a likeness of {self.likeness:g}, at least {self.least_tests} tests, {self.solved_of} samples and "
                f"{self.programs} programs; a likeness is 0 to 1, programs are 0 or more, the others 1 or more"
            )

    def reason(self, problem: Problem) -> str:
        """Why a problem is left out; empty where it is kept."""
        if self.dates is not None and not problem.date:
            return NO_DATE
        if self.dates is not None and not self.dates[0] <= problem.date <= self.dates[1]:
            return OTHER_DATE
        name = problem.license.lower()
        if self.licenses and not any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.licenses):
            return OTHER_LICENSE
        return FEW_TESTS if len(problem.tests) < self.least_tests else ""


def parse_dates(words: str) -> tuple[str, str]:
    """The days of `2024-08-01..2025-05-01`. Raises UserError."""
    first, dots, last = words.partition("..")
    try:
        days = date.fromisoformat(first).isoformat(), date.fromisoformat(last).isoformat()
    except ValueError as error:
        raise UserError(f"got the dates {words!r}, expected FIRST..LAST such as 2024-08-01..2025-05-01") from error
    if not dots or days[0] > days[1]:
        raise UserError(f"got the dates {words!r}, whose first day is after the last; exchange them")
    return days


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a script that `filters_of` reads."""
    add = parser.add_argument
    add("--dates", metavar="FIRST..LAST", help="only problems of these days, both included")
    add("--licenses", default="", metavar="PATTERNS", help="only these, such as 'MIT*,Apache-2.0*'")
    add("--least-tests", type=int, default=1, metavar="N", help="only problems with as many (default: 1)")
    add("--held-out", default="", metavar="PATH", help="file or folder of problems that are left out, by what they say")
    about = "of two statements so much alike the later is left out; 0: none is (default: 0.8)"
    add("--likeness", type=float, default=0.8, metavar="SHARE", help=about)
    about = "of verify.py: problems whose own right programs fail are left out"
    add("--verdicts", default="", metavar="FILE", help=about)
    add("--solved", default="", metavar="PATH", help="a run of the base policy: what it solves every time is left out")
    add("--solved-of", type=int, default=8, metavar="N", help="with so many samples (default: 8)")
    add("--programs", type=int, default=4, metavar="N", help="programs kept of each label (default: 4)")


def filters_of(options: argparse.Namespace) -> Filters:
    """The filters that the options name. Raises UserError."""
    names = ("least_tests", "held_out", "likeness", "verdicts", "solved", "solved_of", "programs")
    return Filters(
        dates=parse_dates(options.dates) if options.dates else None,
        licenses=tuple(part.strip() for part in options.licenses.split(",") if part.strip()),
        **{name: getattr(options, name) for name in names},
    )
