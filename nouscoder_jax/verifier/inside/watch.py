"""One running test, watched from the runner: ends it when a limit is reached, adds up what it used.

In: the process of a test, its limits. Out: its exit code, CPU and wall time, memory. Runs inside the sandbox; standard
library only.

CPU time is the limit. The wall limit is a backstop against sleeping: seconds in which the program was ready to run and
the machine gave it no processor do not count, so that a loaded machine does not change verdicts.
"""

from __future__ import annotations

import os
import select
import time

from nouscoder_jax.verifier.inside import processes, protocol
from nouscoder_jax.verifier.inside.candidate import Task
from nouscoder_jax.verifier.inside.channel import GoneError
from nouscoder_jax.verifier.inside.usage import Meter

_MIB = 1 << 20
_FIRST_POLL_MS, _LAST_POLL_MS = 10, 20
_RUNNING = 1 << 20  # no exit code


class Watch:
    """One running test: ends it when a limit is reached, adds up what it used."""

    def __init__(self, task: Task, meter: Meter, pid: int, started: float, *, host: int) -> None:
        """`host`: a file descriptor that hangs up when the host is gone."""
        self.task = task
        self.meter = meter
        self.host = host
        self.pid = pid
        self.started = started
        self.code = _RUNNING
        self.ended_for = ""
        self.cpu_s = 0.0
        self.spent_s = 0.0
        self.wall_s = 0.0
        self.peak_mib = 0.0

    def until_end(self) -> None:
        """Waits for the main process; what it left running is not waited for. Raises GoneError."""
        poller = select.poll()
        poller.register(self.host, 0)  # errors and hang-up only
        try:
            descriptor = os.pidfd_open(self.pid)
            poller.register(descriptor, select.POLLIN)
        except OSError:  # gVisor has no pidfd_open
            descriptor = -1
        wait_ms = _FIRST_POLL_MS
        try:
            while True:
                events = poller.poll(wait_ms)
                self.wall_s = time.monotonic() - self.started
                if any(fd == self.host for fd, _ in events):
                    raise GoneError
                self.reap()
                if self.code != _RUNNING:
                    return
                if not self.ended_for:
                    self.ended_for = self.limit_reached()
                if self.ended_for:
                    processes.kill_all(alone=self.task.alone)
                wait_ms = min(wait_ms * 2, _LAST_POLL_MS)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def finish(self) -> None:
        """After all its processes are gone: the CPU time of all of them."""
        self.cpu_s = max(self.spent_s, self.meter.spent_s(self.cpu_s, 0.0))

    def reap(self) -> bool:
        """Takes in every process that ended. False: none is left."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.cpu_s += used.ru_utime + used.ru_stime
            self.peak_mib = max(self.peak_mib, used.ru_maxrss / 1024)
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)

    def limit_reached(self) -> str:
        """The limit that the running processes are over, or an empty text."""
        task, meter, pids = self.task, self.meter, processes.others(alone=self.task.alone)
        running_s, memory_mib = meter.look(pids)
        if max(os.fstat(task.stdout_fd).st_size, os.fstat(task.stderr_fd).st_size) > task.output_mib * _MIB:
            return "output_limit"
        if memory_mib > task.memory_mib and len(pids) > 1 and not meter.has_group:
            memory_mib = meter.shared_fairly_mib(pids)
        self.peak_mib = max(self.peak_mib, memory_mib)
        if memory_mib > task.memory_mib:
            return "memory_limit"
        self.spent_s = meter.spent_s(self.cpu_s, running_s)
        if self.spent_s > task.cpu_s or self.wall_s > task.wall_s + self.waited_s():
            return "time_limit"
        if meter.processes > 4 * task.max_processes:  # only where nothing stops it from growing
            return f"more than {task.max_processes} processes"
        return ""

    def waited_s(self) -> float:
        """Seconds that the program was ready to run and got no processor: the machine's doing, not the program's."""
        if self.wall_s <= self.task.wall_s:
            return 0.0
        longest = 0
        for pid in processes.others(alone=self.task.alone):
            try:
                with open(f"/proc/{pid}/schedstat", "rb") as file:
                    longest = max(longest, int(file.read().split()[1]))
            except (OSError, IndexError):
                continue
        return min(longest / 1e9, protocol.MAX_WAIT_FACTOR * self.task.wall_s)
