"""The system calls that a judged program may not make, as a classic BPF filter for seccomp(2).

In: what the sandbox leaves open (signals, network); the machine's architecture. Out: bytes of a BPF program, and
`install`, which puts it on the calling process for good. Runs inside the sandbox; standard library only.

Docker's own filter lets AF_VSOCK sockets, io_uring and ptrace through; no namespace isolates vsock. So the program
gets a filter of its own, whatever the sandbox around it is. Numbers: Linux `asm/unistd_64.h`, `asm-generic/unistd.h`.
"""

from __future__ import annotations

import ctypes
import os
import struct

_X86_64 = {
    "arch": 0xC000003E,
    "socket": 41,
    "clone": 56,
    "clone3": 435,
    "kill": 62,
    "tkill": 200,
    "tgkill": 234,
    # ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise
    # mount umount2 pivot_root chroot and the new mount calls; unshare setns
    # keyctl add_key request_key; io_uring; bpf perf_event_open userfaultfd memfd_secret
    # modules, kexec, reboot, swap, acct, quotactl, clocks, names of the host, iopl ioperm modify_ldt
    # SysV shared memory, semaphores, messages; POSIX queues; NUMA policy; file handles; fanotify
    "denied": (
        *(101, 310, 311, 312, 438, 440),
        *(165, 166, 155, 161, 428, 429, 430, 431, 432, 433, 442, 272, 308),
        *(250, 248, 249, 425, 426, 427, 321, 298, 323, 447),
        *(175, 313, 176, 246, 320, 169, 167, 168, 163, 179, 164, 227, 305, 159, 170, 171, 172, 173, 154),
        *(29, 30, 31, 67, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241, 242, 243, 244, 245),
        *(237, 238, 239, 256, 279, 303, 304, 300, 135, 103, 134, 153, 180, 212),
    ),
    # setpriority sched_setparam sched_setscheduler sched_setattr ioprio_set
    "ignored": (141, 142, 144, 314, 251),
}
_AARCH64 = {
    "arch": 0xC00000B7,
    "socket": 198,
    "clone": 220,
    "clone3": 435,
    "kill": 129,
    "tkill": 130,
    "tgkill": 131,
    "denied": (
        *(117, 270, 271, 272, 438, 440),
        *(40, 39, 41, 51, 428, 429, 430, 431, 432, 433, 442, 97, 268),
        *(219, 217, 218, 425, 426, 427, 280, 241, 282, 447),
        *(105, 273, 106, 104, 294, 142, 224, 225, 89, 60, 170, 112, 266, 171, 161, 162),
        *(194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181, 182, 183, 184, 185),
        *(235, 236, 237, 238, 239, 264, 265, 262, 92, 116, 18),
    ),
    "ignored": (140, 118, 119, 274, 30),
}
_TABLES = {"x86_64": _X86_64, "aarch64": _AARCH64}

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16
# CLONE_NEW*: time cgroup uts ipc user pid net mount
_CLONE_NEW = 0x00000080 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
_X32_BIT = 0x40000000
_NEWEST = 462  # mseal, of Linux 6.10; one numbering for all architectures since 5.1. What comes later is not known here


def _op(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _stop(action: int) -> bytes:
    return _op(_RETURN, action, 0, 0)


def build(*, may_signal: bool, has_network_namespace: bool) -> bytes:
    """The filter. may_signal: its signals can reach nobody but its own processes, so it may send them.

    Without a network namespace it may not open any socket (pairs of sockets stay allowed); with one it may open unix
    and internet sockets, which lead nowhere. Empty where this machine's architecture has no table here.
    """
    table = _TABLES.get(os.uname().machine)
    if table is None:
        return b""
    deny = _stop(_ERRNO | _EPERM)
    ops = [_op(_LOAD, _ARCH, 0, 0), _op(_JUMP_EQ, table["arch"], 1, 0), _stop(_KILL), _op(_LOAD, _NR, 0, 0)]
    if table is _X86_64:
        ops += [_op(_JUMP_GE, _X32_BIT, 0, 1), _stop(_KILL)]
    ops += [_op(_JUMP_GE, _NEWEST + 1, 0, 1), _stop(_ERRNO | _ENOSYS)]
    denied = set(table["denied"])
    if not may_signal:
        denied |= {table["kill"], table["tkill"]}
    for number in sorted(denied):
        ops += [_op(_JUMP_EQ, number, 0, 1), deny]
    for number in table["ignored"]:  # waiting for a processor does not count, so a program may not choose to wait
        ops += [_op(_JUMP_EQ, number, 0, 1), _stop(_ERRNO)]  # of no error: it looks as if it were done
    ops += [_op(_JUMP_EQ, table["clone3"], 0, 1), _stop(_ERRNO | _ENOSYS)]  # glibc then uses clone, which is checked
    ops += [_op(_JUMP_EQ, table["clone"], 0, 3), _op(_LOAD, _ARG0, 0, 0), _op(_JUMP_SET, _CLONE_NEW, 0, 1), deny]
    ops += [_op(_LOAD, _NR, 0, 0)]
    families = (1, 2, 10) if has_network_namespace else ()
    ops += [_op(_JUMP_EQ, table["socket"], 0, len(families) + 2), _op(_LOAD, _ARG0, 0, 0)]
    for position, family in enumerate(families):
        ops.append(_op(_JUMP_EQ, family, len(families) - position, 0))
    ops += [deny, _stop(_ALLOW)]
    return b"".join(ops)


def install(libc: ctypes.CDLL, program: bytes) -> None:
    """Puts the filter on this process and all it will start. Needs no_new_privs. Raises OSError."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
