"""The circuit breaker of the judge: while no sandbox can be made, everything waits; nothing is counted, nothing judged.

In: SandboxOutErrors, a sandbox to probe. Out: returns when programs can run again, or OutageError when that took too
long; lines for people; counters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError
from nouscoder_jax.verifier.sandbox import Sandbox, SandboxOutError

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 15.0
REMIND_S = 60.0


class OutageError(UserError):
    """The judge waited as long as it may for something that runs programs."""


class Breaker:
    """Waits for a sandbox that is out of order, once for all who need it."""

    def __init__(
        self, sandbox: Sandbox, *, limit_s: float, say: Callable[[str], None], num_waiting: Callable[[], int]
    ) -> None:
        """`limit_s`: seconds of an outage after which OutageError is raised; `num_waiting`: programs, for the lines."""
        self.say = say
        self.num_outages = 0
        self._sandbox = sandbox
        self._limit_s = limit_s
        self._num_waiting = num_waiting
        self._outage: asyncio.Task[None] | None = None
        self._opened: float | None = None
        self._past_s = 0.0

    @property
    def outage_s(self) -> float:
        """Seconds in outages so far, one that goes on included."""
        return self._past_s + (_now_s() - self._opened if self._opened is not None else 0.0)

    async def gate(self) -> None:
        """Returns at once while all is well, else when it is again. Raises OutageError."""
        if self._outage is not None and (not self._outage.done() or self._outage.exception() is not None):
            await asyncio.shield(self._outage)

    async def wait(self, error: SandboxOutError) -> None:
        """Returns when a probe passes; begins an outage where the first does not. Raises OutageError."""
        if self._outage is None or (self._outage.done() and self._outage.exception() is None):
            self._outage = asyncio.ensure_future(self._sit_out(error))
            self._outage.add_done_callback(lambda done: done.cancelled() or done.exception())  # raised to who waits
        await asyncio.shield(self._outage)

    async def close(self) -> None:
        """Stops waiting."""
        if self._outage is not None and not self._outage.done():
            self._outage.cancel()
            await asyncio.wait([self._outage])

    async def _sit_out(self, error: JudgeError) -> None:
        try:
            await self._sandbox.probe()
            return
        except JudgeError:
            pass
        self.num_outages += 1
        self._opened = reminded = _now_s()
        pause_s = FIRST_PAUSE_S
        self.say(f"judge: waiting: {error}; {self._num_waiting()} programs wait; run stops after {self._limit_s:g} s")
        try:
            while True:
                left_s = self._limit_s - (_now_s() - self._opened)
                if left_s < 1e-3:  # the rest of a rounded sum would be waited for for ever by a clock that is a number
                    raise OutageError(
                        f"nothing ran programs for {self._limit_s:g} s ({error}); nothing was trained on meanwhile: "
                        "start it again, then resume the run (scripts/train.py --resume RUN_FOLDER)"
                    )
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                try:
                    await self._sandbox.probe()
                    break
                except JudgeError as still:
                    error = still
                if _now_s() - reminded >= REMIND_S:
                    reminded = _now_s()
                    waited_s = reminded - self._opened
                    self.say(
                        f"judge: still waiting after {waited_s:.0f} s: {error}; {self._num_waiting()} programs wait; "
                        f"run stops in {max(0.0, self._limit_s - waited_s):.0f} s"
                    )
            self.say(f"judge: back after {_now_s() - self._opened:.0f} s")
        finally:
            self._past_s += _now_s() - self._opened
            self._opened = None


def _now_s() -> float:
    """The event loop's clock: monotonic, or whatever a simulation says."""
    return asyncio.get_running_loop().time()
