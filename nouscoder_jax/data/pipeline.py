"""The order in which problems are drawn, as a Grain iterator whose position is JSON.

In: the number of problems, the seed, which process this is. Out: indices of problems, for ever.

Every epoch is one shuffle of all problems, the same in all processes; process p takes every num_processes-th of it
from p on. So the shares of one epoch never overlap, and another epoch has another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grain

from nouscoder_jax.config import UserError


class ProblemStream(Iterator[int]):
    """Indices into the list of problems, without an end."""

    def __init__(self, iterator: grain.DatasetIterator[int]) -> None:
        self._iterator = iterator

    def __next__(self) -> int:
        return int(next(self._iterator))

    def get_state(self) -> dict[str, Any]:
        """The position as a JSON value; `set_state` of it continues with the index that would have come next."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position of `get_state`, of a stream with the same arguments."""
        self._iterator.set_state(state)


def problem_stream(num_problems: int, *, seed: int, process_index: int, num_processes: int) -> ProblemStream:
    """This process's share of the problems in shuffled order, epoch after epoch.

    With num_problems not a multiple of num_processes, shares differ in length by one. Raises UserError when a process
    would get none.
    """
    if num_problems < num_processes:
        raise UserError(
            f"got {num_problems} problems for {num_processes} processes; each needs at least one, "
            "use more problems or fewer processes (mesh.num_processes)"
        )
    share = slice(process_index, None, num_processes)
    dataset = grain.MapDataset.range(num_problems).seed(seed).shuffle().slice(share).repeat()
    # Reading an index costs nothing: threads and prefetch would only blur the position.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return ProblemStream(iter(dataset.to_iter_dataset(options)))
