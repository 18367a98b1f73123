"""The order in which problems are drawn, as a Grain iterator whose position is JSON.

In: the number of problems, the seed. Out: indices of problems, for ever.

Every epoch is one shuffle of all problems, and another epoch has another order.
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


def problem_stream(num_problems: int, *, seed: int) -> ProblemStream:
    """All problems in shuffled order, epoch after epoch. Raises UserError where there are none."""
    if num_problems < 1:
        raise UserError("got no problems; give data.problems a file with at least one whose prompt is short enough")
    dataset = grain.MapDataset.range(num_problems).seed(seed).shuffle().repeat()
    # Reading an index costs nothing: threads and prefetch would only blur the position.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return ProblemStream(iter(dataset.to_iter_dataset(options)))
