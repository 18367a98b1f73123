"""An asyncio event loop whose time is a number: nobody sleeps, and hours of waiting take seconds.

In: a coroutine that waits only for timers and for itself (no sockets; what goes to a thread is done at once, in no
time). Out: its result, and its time.
Events happen in the order of their times, ties in the order in which they were asked for, so that a run repeats.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class DeadlockError(Exception):
    """Everything waits, and no timer will ever end it."""


class _Clock(selectors.DefaultSelector):
    """A selector that moves the time on where another would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | int | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; nothing, and a later time, where nothing is."""
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise DeadlockError(f"at {self.now_s:g} s everything waits for something that will not come")
            self.now_s += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, from 0 s."""

    def __init__(self) -> None:
        self._virtual = _Clock()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now_s

    def run_in_executor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, executor: object, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        """Calls `func` here and now."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # whatever it is, it belongs to whoever waits
            future.set_exception(error)
        return future


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs `main` to its end in virtual time. Raises DeadlockError where it would wait for ever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    """The running loop's time: a clock for StageTimer and SlotMeter."""
    return asyncio.get_running_loop().time()
