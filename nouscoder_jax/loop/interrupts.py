"""Ctrl-C, SIGTERM and what the other processes are told end a run in order.

In: signals, and those that a hand reports. Out: an event that is set once the run is asked to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from nouscoder_jax.training.hands import Crew

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible(crew: Crew | None, *, say: Callable[[str], None]) -> Iterator[asyncio.Event]:
    """While the block runs, the first signal sets the event; the second one is the usual one. Of several processes each
    may have the first: Slurm tells all at once, and once is enough."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def interrupt(who: str) -> None:
        if not stopping.is_set():
            say(f"{who}: finishing the current update, then writing a checkpoint (again: stop at once)")
            stopping.set()

    def interrupted(number: signal.Signals) -> None:
        interrupt("interrupted" if number == signal.SIGINT else number.name)
        loop.remove_signal_handler(number)

    if crew is not None:
        crew.on_interrupt = lambda who: loop.call_soon_threadsafe(interrupt, who)
    for number in _CAUGHT:
        loop.add_signal_handler(number, interrupted, number)
    try:
        yield stopping
    finally:
        for number in _CAUGHT:
            loop.remove_signal_handler(number)
