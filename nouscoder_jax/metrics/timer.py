"""Seconds in each stage of a step, where stages overlap and run many times at once.

In: `with timer.stage("verify"):` around work. Out: wall seconds by stage since the last `take`; and how much of an
engine's slots stood empty, from `with meter.slot():` around each completion.
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
        taken = self.so_far()
        self._seconds, self._taken_at = {}, self._taken_at + taken["total"]
        return taken

    def so_far(self) -> dict[str, float]:
        """The same, and the count goes on."""
        now = self._clock()
        for name, count in self._running.items():
            if count > 0:
                self._add(name, now)
        return self._seconds | {"total": now - self._taken_at}

    def _add(self, name: str, now: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since[name]
        self._since[name] = now


class SlotMeter:
    """Share of an engine's slots that had nothing to do, over time."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.num_slots = 1
        """Set it before the first slot is taken."""
        self._taken = 0
        self._since = self._taken_at = clock()
        self._busy_s = 0.0

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Counts one slot as busy inside the block; more blocks than slots count as all slots."""
        self._move(+1)
        try:
            yield
        finally:
            self._move(-1)

    def take(self) -> float:
        """Idle share since the last take, 0 to 1."""
        self._move(0)
        whole = (self._since - self._taken_at) * self.num_slots
        idle = 1 - self._busy_s / whole if whole > 0 else 0.0
        self._busy_s, self._taken_at = 0.0, self._since
        return idle

    def _move(self, change: int) -> None:
        now = self._clock()
        self._busy_s += min(self._taken, self.num_slots) * (now - self._since)
        self._since = now
        self._taken += change
