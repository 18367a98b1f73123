"""Linux namespaces, which the runner enters by itself on a machine without Docker.

In: a user id, the connection's file descriptors. Out: this process is pid 1 of new pid, mount, network, ipc and uts
namespaces, in a root folder that holds a Python, the system's libraries and nothing else. Runs inside; standard library
only. Man pages: namespaces(7), user_namespaces(7), pivot_root(2), mount(2).
"""

from __future__ import annotations

import ctypes
import os
import sys

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_SIGKILL = 9
_PR_SET_PDEATHSIG = 1
_DEVICES = ("null", "zero", "full", "random", "urandom")
_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")


def enter(libc: ctypes.CDLL, uid: int, descriptors: tuple[int, int]) -> str:
    """Moves into new namespaces; the caller goes on as their pid 1. Returns `root` or `user`: who made them.

    The process that was started stays outside, waits, and dies with pid 1. `descriptors`: those that only
    pid 1 keeps. Raises OSError where the system does not permit it.
    """
    as_root = os.geteuid() == 0
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    outer_uid, outer_gid = os.getuid(), os.getgid()
    if as_root:
        _check(libc.unshare(flags), "unshare")
    else:
        _check(libc.unshare(flags | _NEWUSER), "unshare of a user namespace")
        _put("/proc/self/setgroups", "deny")
        _put("/proc/self/uid_map", f"{uid} {outer_uid} 1")
        _put("/proc/self/gid_map", f"{uid} {outer_gid} 1")
    parent, child = os.getpid(), os.fork()
    if child:
        _wait_outside(libc, child, descriptors, parent)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _build_root(libc)
    return "root" if as_root else "user"


def _wait_outside(libc: ctypes.CDLL, child: int, descriptors: tuple[int, int], parent: int) -> None:
    """Never returns: stays in the machine's process tree, so that killing this process ends everything."""
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    for descriptor in (*descriptors, 0, 1):
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)  # the host asks how pid 1 ended


def _build_root(libc: ctypes.CDLL) -> None:
    mount(libc, None, "/", None, _REC | _PRIVATE, None)
    sources = [folder for folder in _FOLDERS if os.path.isdir(folder)]
    prefix = os.path.realpath(sys.base_prefix)
    sources += [
        os.path.join(prefix, part) for part in ("bin", "lib", "lib64") if os.path.isdir(os.path.join(prefix, part))
    ]
    root = next(
        path for path in ("/mnt", "/media", "/srv", "/opt", "/tmp") if os.path.isdir(path) and not _holds(path, sources)
    )
    mount(libc, "tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=4m,mode=755")
    for source in dict.fromkeys(sources):
        target = root + source
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif not os.path.exists(target):
            os.makedirs(target)
            _bind(libc, source, target)
    for source in [*_FILES, *(f"/dev/{name}" for name in _DEVICES)]:
        if os.path.exists(source):
            os.makedirs(os.path.dirname(root + source), exist_ok=True)
            os.close(os.open(root + source, os.O_CREAT | os.O_WRONLY, 0o644))
            mount(libc, os.path.realpath(source), root + source, None, _BIND, None)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    for folder in ("/tmp", "/dev/shm"):
        os.makedirs(root + folder)
        options = "size=64m,nr_inodes=4096,mode=1777"
        mount(libc, "tmpfs", root + folder, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)
    os.makedirs(f"{root}/proc")
    mount(libc, "proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC, None)
    os.chdir(root)
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", _DETACH), "umount of the old root")
    os.chdir("/")
    mount(libc, None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV, None)


def _holds(path: str, sources: list[str]) -> bool:
    return any(os.path.realpath(source).startswith(path + "/") for source in sources)


def _bind(libc: ctypes.CDLL, source: str, target: str) -> None:
    """Shows a folder read-only. Flags that the outside locked must be repeated, or a user namespace refuses."""
    mount(libc, source, target, None, _BIND | _REC, None)
    held = os.statvfs(target).f_flag & (_NODEV | _NOEXEC | 1024 | 2048 | 4096)
    times = {1024: 1 << 10, 2048: 1 << 11, 4096: 1 << 21}  # ST_NOATIME.. have MS_ twins of other values
    flags = (held & (_NODEV | _NOEXEC)) | sum(value for bit, value in times.items() if held & bit)
    mount(libc, None, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | flags, None)


def mount(
    libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    """mount(2). Raises OSError."""
    texts = [None if text is None else ctypes.c_char_p(os.fsencode(text)) for text in (source, target, kind, options)]
    result = libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(result, f"mount {kind or source or 'flags'} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _put(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
