"""Starts scripts/train.py in this process and kills it, with SIGKILL, when it has come to a certain place.

python crash_launcher.py LOG RUN_DIR REFERENCE PLACE DELAY_MS train.py's arguments

A touch is whatever CPython tells audit hooks of files in RUN_DIR: one opened for writing, a rename, a new folder, a
deletion. It becomes a line of LOG, such as `open journal/batch-000001.json.part`. REFERENCE is the LOG of a whole run.
The process dies just before the first touch that REFERENCE has on line PLACE or later (counted from 0; -1: never), or
DELAY_MS after it, where threads write that Python knows nothing of.
"""

import os
import re
import runpy
import signal
import sys
import threading
import time

log_path, run_dir, reference, place, delay_ms = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])
run_dir = os.path.abspath(run_dir)
places: dict[str, list[int]] = {}
"""Touch -> lines of the reference."""
if place >= 0:
    with open(reference) as lines:
        for number, line in enumerate(lines):
            places.setdefault(line.rstrip("\n"), []).append(number)
log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
seen: dict[str, int] = {}
lock = threading.Lock()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def later() -> None:
    time.sleep(delay_ms / 1000)
    die()


def touched(event: str, path: object) -> None:
    path = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    path = os.fsdecode(path)
    if not os.path.abspath(path).startswith(run_dir):
        return
    touch = re.sub(r"\d{9,}.*", "TIME", f"{event} {os.path.abspath(path)[len(run_dir) + 1 :]}")
    with lock:
        count = seen[touch] = seen.get(touch, 0) + 1
        known = places.get(touch, [])
        if len(known) >= count and known[count - 1] >= place:
            if delay_ms == 0:
                die()
            places.clear()
            threading.Thread(target=later, daemon=True).start()
        os.write(log, f"{touch}\n".encode())


def hook(event: str, arguments: tuple) -> None:
    if event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR):
            touched(event, path)
    elif event in ("os.rename", "os.link"):
        touched(event, arguments[1])
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        touched(event, arguments[0])


sys.addaudithook(hook)
sys.argv = ["train.py", *sys.argv[6:]]
runpy.run_path(os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "train.py"), run_name="__main__")
