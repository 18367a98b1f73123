"""The judged program, in the process that was forked for one test: gives up every right, then is `__main__`.

In: a `Task` (open files, limits, the program). Out: an exit code; output goes to memory files that the runner reads.
Runs inside the sandbox; standard library only. Nothing here can turn wrong into right: the expected output is not in
the sandbox, so a program that attacks this code attacks itself.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import io
import os
import resource
import signal
import struct
import sys
import threading

from nouscoder_jax.verifier import seccomp

EXIT_EXCEPTION, EXIT_MEMORY, EXIT_SETUP = 113, 114, 115
PROGRAM_PATH = "program.py"
_MIB = 1 << 20
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_BUILTIN_METHOD = type(len)


class Task:
    """What one forked process needs to know."""

    program: bytes
    fn_name: str
    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    result_fd: int
    ready_fd: int
    cpu_s: float
    memory_mib: int
    output_mib: int
    max_processes: int  # 0: something else counts processes
    uid: int  # 0: stay who we are
    folder: str
    libc: ctypes.CDLL
    filter: bytes


def become(task: Task) -> None:
    """Turns this process into the program. Never returns. A byte on `ready_fd` says that the program's code began."""
    try:
        _give_up_rights(task)
        _fresh_interpreter(task)
        os.write(task.ready_fd, b"R")
        os.close(task.ready_fd)
    except BaseException as error:  # whatever it is, it is the judge's failure and must reach the runner
        os.write(task.ready_fd, f"E{type(error).__name__}: {error}".encode()[:400])
        os._exit(EXIT_SETUP)
    os._exit(_execute(task))


def _give_up_rights(task: Task) -> None:
    os.setsid()
    for number, fd in enumerate((task.stdin_fd, task.stdout_fd, task.stderr_fd)):
        os.dup2(fd, number)
    start = 3
    for keep in sorted(fd for fd in (task.ready_fd, task.result_fd) if fd >= 0):
        os.closerange(start, keep)
        start = keep + 1
    os.closerange(start, 256)
    os.chdir(task.folder)
    os.umask(0o022)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # out of memory: this process dies, not the runner
    except OSError:
        pass
    _set_rlimits(task)
    if task.uid:
        os.setgroups([])
        os.setresgid(task.uid, task.uid, task.uid)
        os.setresuid(task.uid, task.uid, task.uid)
    drop_capabilities(task.libc)
    task.libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    task.libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # so that /proc/self and /dev/stdin are the program's own
    task.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if task.filter:
        seccomp.install(task.libc, task.filter)


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Empties the capability sets of this process. Raises OSError."""
    header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    if libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset refused")


def _set_rlimits(task: Task) -> None:
    output = task.output_mib * _MIB + 1
    cpu = int(task.cpu_s) + 2
    # Resident memory is what the runner limits: address space may be large, as threads with large stacks need it.
    space = task.memory_mib * _MIB * 2 + (4 << 30)
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_AS, space),
    ]
    if task.max_processes:
        limits.append((resource.RLIMIT_NPROC, task.max_processes))
    for which, value in limits:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))


def _fresh_interpreter(task: Task) -> None:
    sys.stdin = sys.__stdin__ = _open(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _open(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _open(2, "w", "backslashreplace")
    path = os.path.join(task.folder, PROGRAM_PATH)
    sys.argv = [path]
    sys.path.insert(0, task.folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "nouscoder_jax"]:
        del sys.modules[name]
    main = type(sys)("__main__" if not task.fn_name else "program")
    main.__dict__.update(__file__=path, __builtins__=builtins, __spec__=None, __annotations__={})
    sys.modules["__main__"] = sys.modules[main.__name__] = main
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(1000 + 12)  # 1000 as in a fresh interpreter, above the frames of the runner
    if "random" in sys.modules:
        sys.modules["random"].seed()
    gc.enable()


def _open(number: int, mode: str, errors: str) -> io.TextIOWrapper:
    """A standard stream as Python makes it under a C.UTF-8 locale: `newline` too, so CRLF arrives as it is."""
    line_by_line = 1 if number == 2 else -1
    return open(number, mode, line_by_line, "utf-8", errors, "\n", closefd=False)  # type: ignore[return-value]


def _execute(task: Task) -> int:
    """The exit code: 0 after a normal end or SystemExit, EXIT_MEMORY, or EXIT_EXCEPTION."""
    main = sys.modules["__main__"]
    code = 0
    try:
        namespace = main.__dict__
        exec(compile(task.program, namespace["__file__"], "exec", dont_inherit=True), namespace)
        if task.fn_name:
            _call(task, namespace)
    except SystemExit:
        pass
    except MemoryError:
        code = EXIT_MEMORY
    except BaseException as error:
        code = _report(error)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter's end does
        atexit._run_exitfuncs()
        _flush(main)
    except MemoryError:
        code = EXIT_MEMORY
    except SystemExit:
        pass
    except BaseException as error:
        code = code or _report(error)
    return code


def _report(error: BaseException) -> int:
    """Writes the traceback to stderr, as Python does."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-8)
        os.write(2, "".join(lines).encode("utf-8", "backslashreplace")[-8192:])
    except BaseException:  # a broken exception object is still an uncaught exception
        pass
    return EXIT_EXCEPTION


def _flush(main: object) -> None:
    """Writes out what a dying interpreter would: sys.stdout, and files that the program's globals hold open."""
    files = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    stdout = sys.stdout
    if stdout is not None and not getattr(stdout, "closed", False):
        stdout.flush()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            stream.flush()
    for value in list(vars(main).values()):
        if type(value) is _BUILTIN_METHOD:
            value = value.__self__
        if type(value) in files and not value.closed and value.writable():
            value.flush()


def _call(task: Task, namespace: dict[str, object]) -> None:
    """Calls the function with the arguments on stdin; writes the returned value as JSON to its own file."""
    import json

    with open(0, "rb", closefd=False) as stdin:
        arguments = json.loads(stdin.read().decode("utf-8", "surrogatepass"))
    owner, dot, method = task.fn_name.rpartition(".")
    function = getattr(namespace[owner](), method) if dot else namespace[task.fn_name]  # type: ignore[operator]
    text = json.dumps(canonical(function(*arguments)))  # type: ignore[operator]
    with open(task.result_fd, "wb", closefd=False) as file:
        file.write(text.encode())


def canonical(value: object) -> object:
    """The value as plain JSON types, by its type and never by its own `__eq__`: tuples become lists.

    Subclasses (namedtuple, defaultdict, IntEnum) are read through the methods of their built-in base. Keys of
    dictionaries become text as in JSON. Raises TypeError for anything that JSON has no word for, a set for example.
    """
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is float or kind is str:
        return value
    if issubclass(kind, (list, tuple)):
        base = list if issubclass(kind, list) else tuple
        return [canonical(item) for item in base.__iter__(value)]  # type: ignore[arg-type]
    if issubclass(kind, dict):
        return {_key(key): canonical(item) for key, item in dict.items(value)}  # type: ignore[arg-type]
    if issubclass(kind, int):
        return int.__int__(value)  # type: ignore[arg-type]
    if issubclass(kind, float):
        return float.__float__(value)  # type: ignore[arg-type]
    if issubclass(kind, str):
        return str.__str__(value)  # type: ignore[arg-type]
    raise TypeError(f"a value of type {kind.__name__} was returned; JSON has no such value")


def _key(key: object) -> str:
    if key is None or key is True or key is False:
        return {None: "null", True: "true", False: "false"}[key]
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)  # type: ignore[arg-type]
    if issubclass(kind, int):
        return int.__repr__(key)  # type: ignore[arg-type]
    if issubclass(kind, float):
        return float.__repr__(key)  # type: ignore[arg-type]
    raise TypeError(f"a dictionary with a key of type {kind.__name__} was returned; JSON has no such key")
