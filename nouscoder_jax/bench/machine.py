"""Where and on what a benchmark ran: so that a figure can be read a year later.

In: this machine. Out: a dict for JSON: date, commit, hardware, versions, load.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def describe(packages: tuple[str, ...]) -> dict[str, object]:
    """Date, commit, hardware, the versions of these packages and the load of the machine, now."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count() or 0, "memory_gib": _memory_gib()},
        "versions": {"python": platform.python_version(), "kernel": platform.release()}
        | {name: importlib.metadata.version(name) for name in packages},
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit of the working tree, with `+changes` where files differ from it; `unknown` outside of git."""
    head, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return (head + ("+changes" if changed else "")) if head else "unknown"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _memory_gib() -> float:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(found.group(1)) / (1 << 20), 1) if found else 0.0


def _read(path: str) -> str:
    return Path(path).read_text() if os.path.exists(path) else ""
