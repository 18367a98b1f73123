"""The processes of the judged program, as the runner finds and ends them.

In: whether the runner is alone, as pid 1 of its own pid namespace. Out: process ids; SIGKILL to each. Runs inside the
sandbox; standard library only.
"""

from __future__ import annotations

import os

_SIGKILL = 9


def kill_all(*, alone: bool) -> None:
    """SIGKILL to every process but this one, or to every descendant where other processes are in sight."""
    for pid in [-1] if alone else others(alone=alone):
        try:
            os.kill(pid, _SIGKILL)
        except ProcessLookupError:
            continue


def others(*, alone: bool) -> list[int]:
    """Every process of the program."""
    own = os.getpid()
    if alone:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]
    found, queue = [], [own]
    while queue:
        pid = queue.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                queue += children
        except OSError:
            continue
    return found
