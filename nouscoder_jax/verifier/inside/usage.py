"""What the running test uses: from the container's control group where there is one, else from /proc.

In: ids of the test's processes; the kernel's files. Out: CPU seconds, MiB, out-of-memory kills. Runs inside the
sandbox; standard library only. The control group misses nothing: children that nobody waits for, memory that no process
has mapped, pages that several processes share. /proc needs guessing for those, and says so below.
"""

from __future__ import annotations

import os
import time

_MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# For each figure: the files of control groups v2 and v1, as a container sees its own.
_CPU = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpuacct/cpuacct.usage")
_MEMORY = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
_STAT = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
_OOM = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_IDLE = (b"total_inactive_file", b"inactive_file")


class Meter:
    """Asked while a test runs and once after it. `begin` before each test.

    `cpu_s` and `memory_mib` are of all processes of the program together.
    """

    def __init__(self) -> None:
        self.oom_kills = 0
        self.oom_file = self.cpu_file = self.memory_file = self.stat_file = -1

    def use_control_group(self) -> None:
        """Where this process is alone in a container: its control group's figures from now on."""
        self.cpu_file, self.memory_file, self.stat_file, self.oom_file = map(_open, (_CPU, _MEMORY, _STAT, _OOM))
        self.oom_rose()

    @property
    def has_group(self) -> bool:
        """Whether memory is the control group's figure."""
        return self.memory_file >= 0

    def begin(self) -> None:
        self.cpu_before = self.group_cpu_s() - time.process_time()
        self.memory_before = self.group_memory_mib()
        self.own_ticks: dict[int, int] = {}
        self.processes = 0

    def group_cpu_s(self) -> float:
        """CPU seconds since the container began; 0 without a group."""
        if self.cpu_file < 0:
            return 0.0
        words = os.pread(self.cpu_file, 1000, 0).split()
        return int(words[0]) / 1e9 if len(words) == 1 else int(words[words.index(b"usage_usec") + 1]) / 1e6

    def group_memory_mib(self) -> float:
        """MiB that the container holds now, files that it can let go of left out; 0 without a group."""
        if self.memory_file < 0:
            return 0.0
        held = int(os.pread(self.memory_file, 100, 0))
        words = os.pread(self.stat_file, 20_000, 0).split() if self.stat_file >= 0 else []
        idle = next((int(words[words.index(name) + 1]) for name in _IDLE if name in words), 0)
        return (held - idle) / _MIB

    def oom_rose(self) -> bool:
        """Whether the kernel killed for memory since this was last asked; never where it does not say."""
        if self.oom_file < 0:
            return False
        words = os.pread(self.oom_file, 1000, 0).split()
        before, self.oom_kills = self.oom_kills, int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0
        return self.oom_kills > before

    def spent_s(self, ended_s: float, running_s: float) -> float:
        """CPU seconds of the test, given those of the processes that ended and of those that run.

        The group counts this process too, and what it used itself is taken off. Without a group, children whose parent
        ignores their end are seen only while they run: the last figure of each is kept, and the larger sum counts.
        """
        counted = ended_s + running_s
        if self.cpu_file >= 0:
            return max(counted, self.group_cpu_s() - time.process_time() - self.cpu_before)
        return max(counted, sum(self.own_ticks.values()) / _TICKS)

    def look(self, pids: list[int]) -> tuple[float, float]:
        """CPU seconds of running processes with their ended children, and their memory in MiB."""
        ticks = pages = self.processes = 0
        for pid in pids:
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    words = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            self.own_ticks[pid] = int(words[11]) + int(words[12])
            ticks += sum(map(int, words[11:15]))
            pages += int(words[21])
            self.processes += int(words[17])
        if self.has_group:
            return ticks / _TICKS, self.group_memory_mib() - self.memory_before
        return ticks / _TICKS, pages * _PAGE / _MIB

    def shared_fairly_mib(self, pids: list[int]) -> float:
        """MiB of all processes where a page that several of them share counts once; slow (a millisecond a process)."""
        held = 0
        for pid in pids:
            try:
                with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                    words = file.read().split()
                held += int(words[words.index(b"Pss:") + 1])
            except (OSError, ValueError):
                continue
        return held / 1024


def _open(paths: tuple[str, str]) -> int:
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1
