"""CPU seconds of all that a bench makes work: wall time on a machine that others use says little.

In: processes. Out: CPU seconds of them, of what they have started and of what has ended below them; only differences
mean something. Read from /proc: a process that has ended counts with whoever waited for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree_cpu_s(roots: Sequence[int] = ()) -> float:
    """CPU seconds of these processes (default: this one) and of all below them."""
    stats = _stats()
    return sum(stats[pid][1] for pid in _below(roots or (os.getpid(),), stats) if pid in stats) / _TICKS_PER_S


@contextlib.contextmanager
def cores(num_cores: int) -> Iterator[None]:
    """Processes started inside may use the first `num_cores` cores; XLA makes as many threads."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stats() -> dict[int, tuple[int, int]]:
    """Process -> its parent, its ticks with those of its children that it has waited for."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it has ended
                words = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                found[int(name)] = int(words[1]), sum(map(int, words[11:15]))
    return found


def _below(roots: Sequence[int], stats: dict[int, tuple[int, int]]) -> set[int]:
    found, new = set(), set(roots)
    while new:
        found |= new
        new = {pid for pid, (parent, _) in stats.items() if parent in new} - found
    return found
