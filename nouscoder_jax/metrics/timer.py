"""Seconds in each stage of a step, where stages overlap and run many times at once.

In: `with timer.stage("verify"):` around work. Out: wall seconds by stage since the last `take`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class StageTimer:
    """Wall seconds in which at least one piece of work of a stage was going on (their union, never their sum)."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._taken_at = clock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time inside the block for `name`; blocks of one name may overlap, across tasks as well."""
        if self._running.get(name, 0) == 0:
            self._since[name] = self._clock()
        self._running[name] = self._running.get(name, 0) + 1
        try:
            yield
        finally:
            self._running[name] -= 1
            if self._running[name] == 0:
                self._add(name, self._clock())

    def take(self) -> dict[str, float]:
        """Seconds by stage and `total` since the last take; stages still running go on from zero."""
        now = self._clock()
        for name, count in self._running.items():
            if count > 0:
                self._add(name, now)
        taken = self._seconds | {"total": now - self._taken_at}
        self._seconds, self._taken_at = {}, now
        return taken

    def _add(self, name: str, now: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since[name]
        self._since[name] = now
