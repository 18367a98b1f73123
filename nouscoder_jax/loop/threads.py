"""Work in a thread that nobody waits for in the end.

In: a function that may never return: a collective whose other side is gone. Out: its result, for an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but neither the event loop nor the interpreter waits for the thread when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def work() -> None:
        try:
            ended = (future.set_result, function(*args, **kwargs))
        except BaseException as error:
            ended = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, *ended)

    threading.Thread(target=work, daemon=True, name=getattr(function, "__name__", "work")).start()
    return await future
