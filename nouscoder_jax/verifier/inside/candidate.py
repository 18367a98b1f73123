"""The judged program, in the process that was forked for one test: gives up every right, then is `__main__`.

In: a `Task` (open files, limits, the program). Out: an exit code; output goes to memory files that the runner reads.
Runs inside the sandbox; standard library only. Nothing here can turn wrong into right: the expected output is not in
the sandbox, so a program that attacks this code attacks itself.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import fcntl
import gc
import io
import marshal
import os
import resource
import signal
import struct
import sys
import types

from nouscoder_jax.verifier.inside import landlock, seccomp, values

EXIT_EXCEPTION, EXIT_MEMORY, EXIT_SETUP = 113, 114, 115
PROGRAM_PATH = "program.py"
_MIB = 1 << 20
_SIGKILL = 9
_ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_F_ADD_SEALS, _F_GET_SEALS, _F_SEAL_ALL = 1033, 1034, 15
_MOST_CODE = 1 << 28
_show_exception = sys.__excepthook__


class Task:
    """A program, its limits, and the open files and rights of the processes that run it."""

    source_fd: int  # the program's text
    needs_finalizers: bool
    fn_name: str  # and how its arguments and result are made: values.Call
    main: types.ModuleType
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    result_fd: int
    ready_fd: int
    code_fd: int  # the compiled program, sealed by the process of the first test
    limits: list[tuple[int, int]]  # (resource, value)
    uid: int  # 0: stay who we are
    alone: bool  # the runner is pid 1 of its pid namespace
    folder: str
    libc: ctypes.CDLL
    filter: bytes  # empty: the runner has put it on already
    landlock: int  # its version; 0: not needed, or not there
    cpu_s: float
    wall_s: float
    memory_mib: int
    output_mib: int
    max_processes: int


def become(task: Task) -> None:
    """Turns this process into the program. Never returns. A byte on `ready_fd` says that the program's code began."""
    try:
        _give_up_rights(task)
        os.write(task.ready_fd, b"R")
        os.close(task.ready_fd)
    except BaseException as error:  # whatever it is, it is the judge's failure and must reach the runner
        os.write(task.ready_fd, f"E{type(error).__name__}: {error}".encode()[:400])
        os._exit(EXIT_SETUP)
    os._exit(_execute(task))


def _give_up_rights(task: Task) -> None:
    for number in _ENDING_SIGNALS:  # under nohup, or in the background of a shell, some come to us ignored
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.dup2(task.stdin_fd, 0)
    os.dup2(task.stdout_fd, 1)
    os.dup2(task.stderr_fd, 2)
    start = 3
    for keep in sorted(fd for fd in (task.ready_fd, task.result_fd, task.code_fd, task.source_fd) if fd >= 0):
        os.closerange(start, keep)
        start = keep + 1
    os.closerange(start, 256)
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"1000")  # out of memory: this process dies, not the runner
        os.close(descriptor)
    except OSError:
        pass
    for which, value in task.limits:
        resource.setrlimit(which, (value, value))
    if task.uid:
        os.setresgid(task.uid, task.uid, task.uid)
        os.setresuid(task.uid, task.uid, task.uid)  # all capabilities go with it
    else:
        drop_capabilities(task.libc)
    task.libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # so that /proc/self and /dev/stdin are the program's own
    if not task.alone:
        task.libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if task.landlock:
        landlock.restrict(task.libc, task.folder, task.landlock)
    if task.filter:
        seccomp.install(task.libc, task.filter)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Empties the capability sets of this process. Raises OSError."""
    header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    if libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset refused")


def limits(*, cpu_s: float, memory_mib: int, output_mib: int, max_processes: int) -> list[tuple[int, int]]:
    """(resource, value) for a process of a test. max_processes 0: something else counts processes."""
    wanted = [
        (resource.RLIMIT_CPU, int(cpu_s) + 2),
        (resource.RLIMIT_FSIZE, output_mib * _MIB + 1),
        # Resident memory is what the runner limits: address space may be large, as threads with large stacks need it.
        (resource.RLIMIT_AS, memory_mib * _MIB * 2 + (4 << 30)),
    ]
    if max_processes:
        wanted.append((resource.RLIMIT_NPROC, max_processes))
    hard = {which: resource.getrlimit(which)[1] for which, _ in wanted}
    return [(which, value if hard[which] == -1 else min(value, hard[which])) for which, value in wanted]


def prepare(task: Task) -> None:
    """In the runner, once a program: the streams and the `__main__` that every test's process starts with.

    The streams are made over the runner's own descriptors 0, 1 and 2, which lead nowhere; a test's process puts its
    own files there. Made before the fork, they need not be made for each test.
    """
    sys.stdin = sys.__stdin__ = _open(0, "r", "surrogateescape", "<stdin>")
    sys.stdout = sys.__stdout__ = _open(1, "w", "surrogateescape", "<stdout>")
    sys.stderr = sys.__stderr__ = _open(2, "w", "backslashreplace", "<stderr>")
    path = os.path.join(task.folder, PROGRAM_PATH)
    sys.argv = [path]
    main = type(sys)("__main__" if not task.fn_name else "program")
    main.__dict__.update(__file__=path, __builtins__=builtins, __spec__=None, __annotations__={})
    sys.modules["__main__"] = sys.modules[main.__name__] = task.main = main


def _open(number: int, mode: str, errors: str, name: str) -> io.TextIOWrapper:
    """A standard stream as Python makes it under a C.UTF-8 locale: `newline` too, so CRLF arrives as it is."""
    line_by_line = 1 if number == 2 else -1
    stream = open(number, mode, line_by_line, "utf-8", errors, "\n", closefd=False)  # noqa: SIM115
    stream.buffer.raw.name = name  # type: ignore[attr-defined]
    return stream  # type: ignore[return-value]


def _execute(task: Task) -> int:
    """The exit code: 0 after a normal end or SystemExit, EXIT_MEMORY, or EXIT_EXCEPTION."""
    main = task.main
    code = 0
    sys.path.insert(0, task.folder)
    gc.enable()
    try:
        call = values.Call(task.fn_name) if task.fn_name else None
        if call:
            main.__dict__.update(call.names())
        exec(_compiled(task), main.__dict__)
        if call:
            _call(task, call, main.__dict__)
    except SystemExit:
        pass
    except MemoryError:
        code = EXIT_MEMORY
    except BaseException as error:
        code = _report(error)
    return _end(task, code)


def _compiled(task: Task) -> types.CodeType:
    """The program's code. The first test's process compiles it and leaves it to the others before it runs any of it."""
    try:
        if fcntl.fcntl(task.code_fd, _F_GET_SEALS) == _F_SEAL_ALL:
            return marshal.loads(os.pread(task.code_fd, _MOST_CODE, 0))
        # Text, not bytes: it is UTF-8 whatever its coding line says.
        text = os.pread(task.source_fd, _MOST_CODE, 0).decode("utf-8-sig", "surrogatepass")
        code = compile(text, str(task.main.__file__), "exec", dont_inherit=True)
        data = marshal.dumps(code)
        if len(data) < task.output_mib * _MIB:  # the limit of any file's size
            os.ftruncate(task.code_fd, 0)
            os.pwrite(task.code_fd, data, 0)
            fcntl.fcntl(task.code_fd, _F_ADD_SEALS, _F_SEAL_ALL)
        return code
    finally:
        os.close(task.code_fd)
        os.close(task.source_fd)


def _end(task: Task, code: int) -> int:
    """What an interpreter does when its program ended: waits for threads, runs exit functions, writes out files."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush()
        if task.needs_finalizers:
            _clear(task.main.__dict__)
            _flush()
    except MemoryError:
        code = EXIT_MEMORY
    except BaseException as error:  # shown and forgotten, as in an interpreter's end
        _report(error)
    return code


def _flush() -> None:
    for stream in (getattr(sys, "stdout", None), sys.__stdout__, sys.__stderr__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def _clear(namespace: dict[str, object]) -> None:
    """Lets go of the program's globals in the interpreter's order, so that finalizers run and files are written."""
    for name in [name for name in namespace if name.startswith("_") and not name.startswith("__")]:
        namespace[name] = None
    for name in [name for name in namespace if name != "__builtins__"]:
        namespace[name] = None
    gc.collect()


def _report(error: BaseException) -> int:
    """Writes the traceback to stderr, as Python does, without the runner's own frame."""
    try:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        _show_exception(type(error), error.with_traceback(trace), trace)
        sys.stderr.flush()
    except BaseException:  # a broken exception object is still an uncaught exception
        pass
    return EXIT_EXCEPTION


def _call(task: Task, call: values.Call, namespace: dict[str, object]) -> None:
    """Calls the function with the arguments on stdin; writes the returned value as JSON to its own file."""
    import json

    with open(0, "rb", closefd=False) as stdin:
        arguments = json.loads(stdin.read().decode("utf-8", "surrogatepass"))
    made = call.made(arguments, namespace)
    text = json.dumps(call.plain(call.function(namespace)(*made), made))
    with open(task.result_fd, "wb", closefd=False) as file:
        file.write(text.encode())
