"""Who waits for whom: batches are taken and trained, one after another, while the collector draws the next ones.

In: a Collector, something that trains a batch and gives the engine the new weights. Out: trained steps, up to
the last one, until it is told to stop, or to the first failure of either side. The loop trains for real; a simulation
passes times: the order of events is this file's either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nouscoder_jax.loop.collect import Collector
from nouscoder_jax.loop.groups import Collected


async def run_steps(
    collector: Collector,
    train: Callable[[Collected], Awaitable[None]],
    *,
    first_step: int,
    num_steps: int,
    stopping: asyncio.Event,
) -> None:
    """Trains the steps after `first_step` up to `num_steps`. A step that has begun when `stopping` is set ends first.

    `train` returns once the engine has the step's weights. Raises what the collector or `train` raises; however it
    ends, nothing is left under way.
    """
    stop = asyncio.create_task(stopping.wait())
    try:
        for step in range(first_step + 1, num_steps + 1):
            taking = asyncio.create_task(collector.take(step), name=f"batch {step}")
            try:
                await asyncio.wait({taking, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done() or stopping.is_set():
                    return
                await train(taking.result())
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
            collector.trained(step)
    finally:
        stop.cancel()
        await asyncio.gather(stop, return_exceptions=True)
        await collector.close()
