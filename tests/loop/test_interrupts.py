"""A run is asked to end once, by whichever process is told first; a second signal is the usual one."""

import asyncio
import os
import signal
import threading

from nouscoder_jax.loop.interrupts import interruptible
from nouscoder_jax.training.hands import Crew


def ended_by(ask, *, crew=None) -> tuple[bool, list[str]]:
    """Whether the run is asked to end, and what was said."""

    async def main() -> bool:
        with interruptible(crew, say=said.append) as stopping:
            async with asyncio.timeout(10):
                await ask()
                await stopping.wait()
                await asyncio.sleep(0.01)  # for a second one
            return stopping.is_set()

    said: list[str] = []
    return asyncio.run(main()), said


def test_the_first_signal_ends_the_run_in_order_and_the_second_is_the_usual_one():
    async def ask():
        os.kill(os.getpid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            await asyncio.sleep(0.01)

    stopped, said = ended_by(ask)
    assert stopped and len(said) == 1 and said[0].startswith("SIGTERM: finishing the current update")


def test_what_several_processes_are_told_at_once_is_said_once():
    async def ask():
        for who in ("process 1 on a", "process 2 on b"):
            threading.Thread(target=crew.on_interrupt, args=(who,)).start()

    crew = Crew([])
    stopped, said = ended_by(ask, crew=crew)
    assert stopped and len(said) == 1 and "process" in said[0]


def test_afterwards_signals_are_the_usual_ones():
    async def main():
        with interruptible(None, say=print):
            inside = signal.getsignal(signal.SIGTERM)
        return inside, signal.getsignal(signal.SIGTERM)

    inside, after = asyncio.run(main())
    assert inside is not signal.SIG_DFL and after is signal.SIG_DFL
