"""Which files a judged program may open where no namespaces are permitted: a Landlock ruleset, see landlock(7).

In: folders. Out: `restrict`, which puts the rules on the calling process and all it will start, for good. Runs inside
the sandbox; standard library only. Needs Linux 5.13 and no privileges. Other processes' /proc is out of reach with it,
so that a program cannot read the memory of the judge that started it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION_QUESTION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE
_SCOPES_SINCE, _SIGNALS_AND_SOCKETS = 6, 3
_ALL_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1}
_ALL_SINCE_3 = (1 << 15) - 1
_SYSTEM = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib",
    "/usr/local/bin", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def version(libc: ctypes.CDLL) -> int:
    """The version of Landlock that this kernel has; 0: none."""
    return max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_QUESTION)))


def keeps_signals_in(kernel: int) -> bool:
    """Whether the rules also keep signals and abstract unix sockets among the processes under them."""
    return kernel >= _SCOPES_SINCE


def restrict(libc: ctypes.CDLL, folder: str, kernel: int) -> None:
    """From now on: the system and this Python to read, `folder` and /dev/shm to write, of /proc only this process.

    `kernel`: what `version` said. Needs no_new_privs. Raises OSError.
    """
    everything = _ALL_OF_VERSION.get(kernel, _ALL_SINCE_3)
    parts = (everything, 0, _SIGNALS_AND_SOCKETS) if keeps_signals_in(kernel) else (everything,)
    attributes = (ctypes.c_uint64 * len(parts))(*parts)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = libc.syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "no Landlock ruleset")
    prefix = os.path.realpath(sys.base_prefix)
    readable = [*_SYSTEM, *(os.path.join(prefix, part) for part in ("bin", "lib", "lib64")), "/proc/self"]
    for paths, access in ((readable, _READ), (_DEVICES, _OF_FILES), ((folder, "/dev/shm"), everything)):
        for path in paths:
            _allow(libc, ruleset, path, access)
    if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0)) != 0:
        raise OSError(ctypes.get_errno(), "Landlock ruleset refused")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    rights = access if os.path.isdir(path) else access & _OF_FILES
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
    done = libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint(0))
    os.close(descriptor)
    if done != 0:
        raise OSError(ctypes.get_errno(), f"Landlock rule for {path} refused")
