"""Batches that an earlier session of the run has collected come from the journal; what follows is collected anew.

In: a journal, where the checkpoint stands, a way to begin collecting. Out: a Collector. A batch of the journal is
trained on again without a token being generated; its weights, and so the versions that later groups were sampled with,
come out as they were. Every batch goes to the journal before it is handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import ProblemStream
from nouscoder_jax.loop.collect import Collector, make_collector
from nouscoder_jax.loop.groups import Collected, Draw, Drawer, Group, GroupMaker, Position, as_stale
from nouscoder_jax.loop.journal import Journal, Record


def resume_collecting(
    config: TrainConfig,
    stream: ProblemStream,
    maker: GroupMaker,
    journal: Journal,
    position: Position,
    *,
    on_progress: Callable[[str, int, int], None],
) -> ReplayingCollector:
    """The batches from `position` on: those of the journal, then those that the config's collector draws."""

    def begin(following: Position, first_step: int) -> Collector:
        drawer = Drawer(stream, following)
        return make_collector(config, drawer, maker, first_step=first_step, on_progress=on_progress)

    return ReplayingCollector(journal, maker, begin, position=position)


@runtime_checkable
class GroupReader(Protocol):
    """Makes groups of what the journal has."""

    async def read(self, draw: Draw) -> Group | None:
        """The draw's group; None where the journal has none that can be used."""
        ...


class ReplayingCollector:
    """A Collector over a journal and another Collector."""

    def __init__(
        self,
        journal: Journal,
        reader: GroupReader,
        begin: Callable[[Position, int], Collector],
        *,
        position: Position,
    ) -> None:
        """`begin(position, trained_steps)` gives the collector of the batches that the journal does not have."""
        self._journal, self._reader, self._begin = journal, reader, begin
        self._position = position
        self._following: Collector | None = None

    async def take(self, step: int) -> Collected:
        """The batch of `step`. Raises EngineError, OutageError, OSError."""
        if self._following is None:
            collected = await self._replay(step)
            if collected is not None:
                self._position = collected.position
                return collected
            self._following = self._begin(self._position, step - 1)
        collected = await self._following.take(step)
        await asyncio.to_thread(self._journal.write_batch, collected)
        return collected

    def trained(self, step: int) -> None:
        """Passes it on."""
        if self._following is not None:
            self._following.trained(step)

    def in_flight(self) -> int:
        """Rollouts of the collector that follows."""
        return self._following.in_flight() if self._following is not None else 0

    async def close(self) -> None:
        """Ends the collector that follows."""
        if self._following is not None:
            await self._following.close()

    async def _replay(self, step: int) -> Collected | None:
        record: Record | None = await asyncio.to_thread(self._journal.read_batch, step)
        if record is None:
            return None
        groups = [await self._reader.read(draw) for draw in record.draws]
        whole = tuple(
            as_stale(group) if group.group_id in record.stale else group for group in groups if group is not None
        )
        if len(whole) < len(groups):
            return None
        return Collected(
            step=step,
            groups=whole,
            position=record.position,
            num_in_flight=record.num_in_flight,
            waiting=record.waiting,
        )
