"""Runs scripts/train.py again and again and kills it, with SIGKILL, when it has come to a certain place.

Every line on stdin is a session in JSON; its exit code comes back as a line on stdout, -9 where it was killed.

    {"log": LOG, "run_dir": RUN_DIR, "reference": REFERENCE, "place": PLACE, "delay_ms": DELAY_MS, "output": FILE,
     "arguments": train.py's}

A touch is whatever CPython tells audit hooks of files in RUN_DIR: one opened for writing, a rename, a new folder, a
deletion. It becomes a line of LOG, such as `open journal/batch-000001.json.part`. REFERENCE is the LOG of a whole run.
The process dies just before the first touch that REFERENCE has on line PLACE or later (counted from 0; -1: never), or
DELAY_MS after it, where threads write that Python knows nothing of.

A session is a process of its own, forked from this one, which has imported everything and done nothing else: imports
are two thirds of a short session.
"""

import importlib
import json
import os
import re
import runpy
import signal
import sys
import threading
import time

SCRIPTS = os.path.join(os.path.dirname(__file__), "..", "..", "scripts")
IMPORTED = ("nouscoder_jax.loop.run", "transformers.models.auto.tokenization_auto", "matplotlib.pyplot")


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


def session(*, output: str, arguments: list[str], **watched) -> None:
    """This process becomes train.py with these arguments."""
    nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number, handle in enumerate((nothing, said, said)):
        os.dup2(handle, number)
    sys.addaudithook(Watch(**watched).hook)
    sys.argv = ["train.py", *arguments]
    runpy.run_path(os.path.join(SCRIPTS, "train.py"), run_name="__main__")


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return session(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    main()
