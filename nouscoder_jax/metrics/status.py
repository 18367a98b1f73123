"""How far something is, on one line: in place on a terminal, now and then where there is none.

In: lines, as many as one likes. Out: text on stderr.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

EVERY_S = 10.0
"""Between two lines where there is no terminal; the first comes after as long."""


@contextmanager
def status(first: str) -> Iterator[Callable[[str], None]]:
    """What takes the lines, one in place of the other; `first` is shown until there is one."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(first) as line:
            yield line.update
        return
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            console.print(text, markup=False, soft_wrap=True)

    yield say
