"""Stands between a server and whoever starts it, so that no process of the server outlives either.

In: argv: process number of the starter, seconds that the server may take to end by itself, the server's command.
Out: its exit code (128 + n for signal n), once it and everything it started are gone. Runs as a program of its own;
standard library only.

The server is asked to end (SIGTERM) when the keeper is, or when the starter is gone, by kill -9 for example. SGLang's
own processes watch their parent only once they have started up; as their subreaper the keeper finds them all.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

LOOK_S = 0.5
"""Seconds between two looks at whether the starter lives."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_END = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_WATCHED = {*_END, signal.SIGCHLD}


def main(arguments: list[str]) -> int:
    """Runs the command until it ends, the starter is gone or the keeper is told to end."""
    starter, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)

    def in_the_server() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    server = subprocess.Popen(command, preexec_fn=in_the_server)
    while server.poll() is None and os.getppid() == starter:
        told = signal.sigtimedwait(_WATCHED, LOOK_S)
        if told is not None and told.si_signo in _END:
            break
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(grace_s)
        except subprocess.TimeoutExpired:
            server.kill()
    code = server.wait()  # before all others are reaped, and it with them
    _kill_descendants()
    return code if code >= 0 else 128 - code


def _kill_descendants() -> None:
    """Until none is left. Those whose parents are gone are children of this process, their subreaper."""
    while True:
        for pid in _descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
        children.setdefault(parent, []).append(int(name))
    found, left = [], [pid]
    while left:
        found += (below := children.get(left.pop(), []))
        left += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
