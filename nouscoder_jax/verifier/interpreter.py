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

_SYSTEM = "/usr/bin/python3"
_OLDEST = (3, 11)
_QUESTION = (
    "import importlib.util, json, os, sys;"
    "print(json.dumps([os.path.realpath(sys.executable), sys.version_info[:3], sys.base_prefix,"
    "importlib.util.MAGIC_NUMBER.hex()]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python on this machine.

    Example:
        Interpreter(path="/usr/bin/python3.11", version="3.11.2", prefix="/usr", same_bytecode=True)
    """

    path: str
    """The binary itself: no shim, no link, no virtual environment."""
    version: str
    prefix: str
    same_bytecode: bool
    """It runs what this process compiles."""


@functools.cache
def choose() -> Interpreter:
    """This process's own base interpreter where it is an optimised build, else the system's, which distributions
    optimise (they do not say so in a way that can be read), else our own after all."""
    own = Interpreter(
        path=os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        version=".".join(map(str, sys.version_info[:3])),
        prefix=os.path.realpath(sys.base_prefix),
        same_bytecode=True,
    )
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        return own
    return _system() or own


def _system() -> Interpreter | None:
    try:
        done = subprocess.run([_SYSTEM, "-I", "-S", "-c", _QUESTION], capture_output=True, timeout=30, check=True)
        real, version, prefix, magic = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if tuple(version) < _OLDEST:
        return None
    return Interpreter(
        path=real,
        version=".".join(map(str, version)),
        prefix=os.path.realpath(prefix),
        same_bytecode=magic == importlib.util.MAGIC_NUMBER.hex(),
    )
