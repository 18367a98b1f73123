"""What a wrong value raises.

In: a condition and what is wrong where it does not hold. Out: ValueError inside the config, UserError for people.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: one line that says what was got, what was expected and the fix. Exit code 2."""


def check(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition` holds."""
    if not condition:
        raise ValueError(message)
