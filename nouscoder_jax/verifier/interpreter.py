"""Which Python of this machine runs the programs, in the local sandbox and in images made here.

In: the running interpreter and the system's. Out: an `Interpreter`. A build without optimisations (the default of
version managers) takes 1.5 times the CPU time, against time limits meant for a normal one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass

_SYSTEM = ("/usr/bin/python3", "/usr/local/bin/python3")
_OLDEST = (3, 11)
_QUESTION = (
    "import importlib.util, json, os, sys, sysconfig;"
    "print(json.dumps([os.path.realpath(sys.executable), sys.version_info[:3], sys.base_prefix,"
    "importlib.util.MAGIC_NUMBER.hex(), sysconfig.get_config_var('CONFIG_ARGS') or '']))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python on this machine.

    Example:
        Interpreter(path="/usr/bin/python3.11", version="3.11.2", prefix="/usr", same_bytecode=True, optimised=True)
    """

    path: str
    """The binary itself: no shim, no link, no virtual environment."""
    version: str
    prefix: str
    same_bytecode: bool
    """It runs what this process compiles."""
    optimised: bool
    """Built with profile-guided optimisation, as far as it says."""


@functools.cache
def choose() -> Interpreter:
    """This process's own base interpreter, or the system's where that is an optimised build and ours is not."""
    own = Interpreter(
        path=os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        version=".".join(map(str, sys.version_info[:3])),
        prefix=os.path.realpath(sys.base_prefix),
        same_bytecode=True,
        optimised=_is_optimised(sysconfig.get_config_var("CONFIG_ARGS") or ""),
    )
    if own.optimised:
        return own
    others = (_ask(path) for path in _SYSTEM if os.path.exists(path))
    return next((other for other in others if other is not None and other.optimised), own)


def _ask(path: str) -> Interpreter | None:
    try:
        done = subprocess.run([path, "-I", "-S", "-c", _QUESTION], capture_output=True, timeout=30, check=True)
        real, version, prefix, magic, arguments = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if tuple(version) < _OLDEST:
        return None
    return Interpreter(
        path=real,
        version=".".join(map(str, version)),
        prefix=os.path.realpath(prefix),
        same_bytecode=magic == importlib.util.MAGIC_NUMBER.hex(),
        optimised=_is_optimised(arguments),
    )


def _is_optimised(arguments: str) -> bool:
    return "--enable-optimizations" in arguments
