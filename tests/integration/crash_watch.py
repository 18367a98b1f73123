"""Kills the session that it watches, with SIGKILL, when that has come to a certain place.

A touch is whatever CPython tells audit hooks of files in the run folder: one opened for writing, a rename, a folder, a
deletion. It becomes a line of the log, such as `open journal/batch-000001.json.part`. The reference is the log of a
whole run. The process dies just before the first touch that the reference has on line `place` or later (counted from 0;
-1: never), or `delay_ms` after it, where threads write that Python knows nothing of.
"""

import os
import re
import signal
import threading
import time


class Watch:
    """The audit hook of a session."""

    def __init__(self, *, log: str, run_dir: str, reference: str, place: int, delay_ms: float) -> None:
        self.run_dir, self.place, self.delay_ms = os.path.abspath(run_dir), place, delay_ms
        self.places: dict[str, list[int]] = {}
        """Touch -> lines of the reference."""
        if place >= 0:
            with open(reference) as lines:
                for number, line in enumerate(lines):
                    self.places.setdefault(line.rstrip("\n"), []).append(number)
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.seen: dict[str, int] = {}
        self.lock = threading.Lock()

    def hook(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR):
                self.touched(event, path)
        elif event in ("os.rename", "os.link"):
            self.touched(event, arguments[1])
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            self.touched(event, arguments[0])

    def touched(self, event: str, path: object) -> None:
        path = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        path = os.fsdecode(path)
        if not os.path.abspath(path).startswith(self.run_dir):
            return
        touch = re.sub(r"\d{9,}.*", "TIME", f"{event} {os.path.abspath(path)[len(self.run_dir) + 1 :]}")
        with self.lock:
            count = self.seen[touch] = self.seen.get(touch, 0) + 1
            known = self.places.get(touch, [])
            if len(known) >= count and known[count - 1] >= self.place:
                if self.delay_ms == 0:
                    die()
                self.places.clear()
                threading.Thread(target=self.later, daemon=True).start()
            os.write(self.log, f"{touch}\n".encode())

    def later(self) -> None:
        time.sleep(self.delay_ms / 1000)
        die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
