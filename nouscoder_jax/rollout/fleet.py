"""Which servers live, and which of them gets the next request.

In: servers, what to ask a server that lives and what to do with one that comes back. Out: `Server`s with a free slot,
least loaded first, in the order in which they were asked for; one line for people where a server goes or comes.

    ready ----> loading      its weights are being changed: no new requests, those under way are not touched
      | ^          |
      v |          v
    lost <---------+         nobody answers: requests under way are given back (ServerLostError); it is tried again and
                             again, and ready once `readmit` has given it the weights it should have

Requests go through `doors`: the servers themselves, or SGLang's router in front of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.sglang_calls import (
    RefusedError,
    ServerLostError,
    ask_at_start,
    context_of,
    no_server,
    router_workers,
)
from nouscoder_jax.types import EngineError

PROBE_INTERVAL_S = 2.0
"""Seconds between two looks at a server, or a quarter of the time after which it is lost, where that is less."""

T = TypeVar("T")


@dataclass(eq=False, slots=True, kw_only=True)
class Server:
    """A server or a router, as the fleet sees it.

    Example:
        Server(url="http://127.0.0.1:30000", num_slots=128, info={"tp_size": 1, ...})
    """

    url: str
    num_slots: int
    """Requests under way at most; 0: the sum of the servers behind it."""
    info: dict[str, Any]
    """Its /server_info."""
    state: Literal["ready", "loading", "lost"] = "ready"
    said: str = "ready"
    """For people: what it last said, or why it is lost."""
    in_flight: int = 0
    lost_at: float = 0.0
    answers: bool = False
    """It is lost and answers again, so that it may get requests from a router although it is not ready."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it is lost."""
    look: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to have it looked at now."""
    abandoned: list[str] = field(default_factory=list)
    """Requests that it may still be computing and nobody waits for."""


def find_servers(urls: Sequence[str], *, num_slots: int, context_tokens: int) -> tuple[Server | None, list[Server]]:
    """The router, where the one URL is SGLang's router, and the servers. Raises UserError that names one that does not
    answer, or whose context is too short."""
    urls, router = [url.rstrip("/") for url in urls], None
    if len(urls) == 1 and (behind := router_workers(urls[0])) is not None:
        if not behind:
            raise no_server(urls[0], "it is a router without servers")
        router, urls = Server(url=urls[0], num_slots=0, info={}), behind
    workers = [Server(url=url, num_slots=num_slots, info=ask_at_start(url, "/server_info")) for url in urls]
    for server in workers:
        check_context(server, context_tokens)
    return router, workers


def check_context(server: Server, context_tokens: int) -> None:
    """Raises UserError where one request of prompt and completion could be longer than the server takes."""
    context = context_of(server.url, server.info)
    if context < context_tokens:
        raise UserError(
            f"{server.url} takes {context} tokens of prompt and completion, the config asks for {context_tokens}; "
            f"start it with --context-length {context_tokens} and a cache that holds as many, or lower "
            "data.max_prompt_tokens or max_completion_tokens"
        )


class Fleet:
    """Servers, their states, and the calls that wait for one.

    Example:
        fleet = Fleet(workers, router=None, probe=..., readmit=..., server_timeout_s=60, outage_limit_s=1800, say=print)
        server = await fleet.acquire(None)
    """

    def __init__(
        self,
        workers: Sequence[Server],
        *,
        router: Server | None,
        probe: Callable[[Server], Awaitable[None]],
        readmit: Callable[[Server], Awaitable[str]],
        server_timeout_s: float,
        outage_limit_s: float,
        say: Callable[[str], None],
    ) -> None:
        """`probe` raises ServerLostError where a server does not live; `readmit` prepares a lost one and says how."""
        self.workers = list(workers)
        self.router = router
        self._probe, self._readmit, self._say = probe, readmit, say
        self._interval_s = min(PROBE_INTERVAL_S, server_timeout_s / 4)
        self._outage_limit_s = outage_limit_s
        self._outage_since: float | None = None
        self._waiting: deque[tuple[asyncio.Future[Server], Server | None]] = deque()
        self._failure: EngineError | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def doors(self) -> list[Server]:
        """Where requests are sent."""
        return [self.router] if self.router else self.workers

    @property
    def alive(self) -> list[Server]:
        """Servers, without the router, that are not lost."""
        return [server for server in self.workers if server.state != "lost"]

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a server."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins to look after the servers, in the running event loop."""
        for server in [*self.workers, *([self.router] if self.router else [])]:
            if server.url not in self._tasks:
                self._tasks[server.url] = asyncio.create_task(self._watch(server), name=f"watch {server.url}")

    async def close(self, failure: EngineError) -> None:
        """Stops; every waiting call, and every call under way, gets `failure`."""
        self._failure = failure
        self._fail_waiting(failure)
        for server in [*self.workers, *self.doors]:
            server.gone.set()
        if self._alarm:
            self._alarm.cancel()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def acquire(self, avoid: Server | None) -> Server:
        """A door that is ready and has a free slot: the least loaded, another than `avoid` where there is one. To be
        given back with `release`. Raises EngineError after an outage of the limit."""
        self._check()
        waiting: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append((waiting, avoid))
        self._grant()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and not waiting.exception():
                self.release(waiting.result())
            raise

    def release(self, server: Server) -> None:
        """Gives a slot back."""
        server.in_flight -= 1
        self._grant()

    async def while_up(self, server: Server, call: Coroutine[Any, Any, T]) -> T:
        """What `call` returns. Raises ServerLostError, and cancels it, as soon as the server is lost."""
        calling = asyncio.ensure_future(call)
        gone = asyncio.ensure_future(server.gone.wait())
        try:
            await asyncio.wait({calling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise ServerLostError(server.said)
            return calling.result()
        finally:
            for task in (calling, gone):
                task.cancel()
                task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody waits for it

    def lose(self, server: Server, reason: str) -> None:
        """Takes a server out until it is readmitted; calls under way on it get ServerLostError."""
        server.said, server.answers = reason, False
        if server.state == "lost" or self._failure:
            return
        server.state, server.lost_at = "lost", time.monotonic()
        server.gone.set()
        server.look.set()
        redone = f"; its {server.in_flight} requests are asked again" if server.in_flight else ""
        self._say(f"SGLang server {server.url} is lost: {reason}{redone}")
        self._watch_outage()

    def load(self, server: Server) -> None:
        """Takes a server out while its weights change; calls under way on it go on."""
        if server.state == "ready":
            server.state = "loading"

    def ready(self, server: Server, *, how: str) -> None:
        """A server may take requests (again)."""
        if server.state == "lost":
            self._say(f"SGLang server {server.url} is back after {time.monotonic() - server.lost_at:.0f} s: {how}")
        server.state, server.said = "ready", how
        server.gone.clear()
        self._watch_outage()
        self._grant()

    def add(self, server: Server) -> None:
        """Takes a new server in, as one that was lost so far."""
        server.state, server.lost_at = "lost", time.monotonic()
        server.gone.set()
        self.workers.append(server)
        self.start()

    async def wait_ready(self) -> None:
        """Returns once some server is ready. Raises EngineError after an outage of the limit."""
        while not any(server.state == "ready" for server in self.workers):
            self._check()
            await asyncio.sleep(0.05)

    async def wait_settled(self) -> None:
        """Returns once no server is being readmitted."""
        while any(server.state == "lost" and server.answers for server in self.workers):
            self._check()
            await asyncio.sleep(0.05)

    def _check(self) -> None:
        if self._failure:
            raise self._failure
        if self._outage_since is not None and time.monotonic() - self._outage_since >= self._outage_limit_s:
            raise self._outage_error()

    def _grant(self) -> None:
        """Hands free slots to those who wait, in order."""
        passed: list[tuple[asyncio.Future[Server], Server | None]] = []
        while self._waiting and self._free_door(None):
            waiting, avoid = self._waiting.popleft()
            if waiting.done():  # cancelled
                continue
            door = self._free_door(avoid)
            if door is None:
                passed.append((waiting, avoid))
                continue
            door.in_flight += 1
            waiting.set_result(door)
        self._waiting.extendleft(reversed(passed))

    def _free_door(self, avoid: Server | None) -> Server | None:
        ready = [door for door in self.doors if door.state == "ready"]
        others = [door for door in ready if door is not avoid]
        free = [door for door in others or ready if door.in_flight < self._slots(door)]
        return min(free, key=lambda door: door.in_flight, default=None)

    def _slots(self, door: Server) -> int:
        if door.num_slots:
            return door.num_slots
        return sum(server.num_slots for server in self.workers if server.state == "ready")

    def _watch_outage(self) -> None:
        """Begins or ends an outage: no server, or no router, is left."""
        out = not self.alive or all(door.state == "lost" for door in self.doors)
        if out and self._outage_since is None:
            self._outage_since = time.monotonic()
            self._say(f"no SGLang server is left; waiting up to {self._outage_limit_s:g} s for one")
            self._alarm = asyncio.get_running_loop().call_later(self._outage_limit_s, self._give_up)
        elif not out and self._outage_since is not None:
            self._outage_since = None
            if self._alarm:
                self._alarm.cancel()

    def _give_up(self) -> None:
        self._fail_waiting(self._outage_error())

    def _outage_error(self) -> EngineError:
        said = "; ".join(f"{server.url}: {server.said}" for server in {*self.workers, *self.doors})
        return EngineError(
            f"no SGLang server for {self._outage_limit_s:g} s (rollout.outage_limit_s); they last said: {said}"
        )

    def _fail_waiting(self, failure: EngineError) -> None:
        for waiting, _ in self._waiting:
            if not waiting.done():
                waiting.set_exception(failure)
        self._waiting.clear()

    async def _watch(self, server: Server) -> None:
        """Looks at one server every few seconds: is it alive, is it back."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):  # wait_for of 3.11 may swallow a cancellation
                    await server.look.wait()
            server.look.clear()
            try:
                if server.state == "lost":
                    self.ready(server, how=await self._readmit(server))
                else:
                    await self._probe(server)
            except ServerLostError as error:
                self.lose(server, str(error))
            except (RefusedError, EngineError) as error:
                server.said = str(error)
            except Exception as error:  # the top of a task that nobody awaits: it must go on looking
                logging.getLogger(__name__).exception("looking after %s failed", server.url)
                server.said = repr(error)
