"""Once in a runner's life: isolates it from the rest of the machine, and gives it the state that tests inherit.

In: the fields of the host's `setup` frame. Out: what isolates; a `Task` filled in as far as it is known before a
program is. Runs inside the sandbox; standard library only.

Afterwards nobody can look into the runner: a process that is not dumpable is closed to ptrace and /proc/PID/mem.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys

from nouscoder_jax.verifier.inside import landlock, namespaces, seccomp
from nouscoder_jax.verifier.inside.candidate import Task

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 36, 38
_OPEN_FILES = 256
_THREAD_STACK_BYTES = 16 << 20


def set_up(task: Task, fields: dict[str, str], *, descriptors: tuple[int, int]) -> tuple[str, bool]:
    """Enters namespaces where asked for and closes this process to others. `descriptors`: the connection to the host.

    Returns what isolates (container, root, user, landlock, nothing) and whether system calls are filtered. Raises
    OSError.
    """
    libc = task.libc = ctypes.CDLL(None, use_errno=True)
    task.uid = int(fields["uid"])
    task.folder = fields["folder"]
    isolation, apart = "container", fields["enter"] != "nothing"
    if fields["enter"] == "namespaces":
        isolation = namespaces.enter(libc, task.uid, descriptors)
        task.alone = os.getpid() == 1
        task.uid = task.uid if isolation == "root" else 0
    elif not apart:
        isolation = "nothing"
    task.code_fd = task.source_fd = -1
    task.landlock = 0
    if not apart:
        task.landlock = landlock.version(libc)
        isolation = "landlock" if task.landlock else isolation
        if task.uid:
            os.chown(task.folder, task.uid, task.uid)
    may_signal = task.alone or task.uid != 0 or landlock.keeps_signals_in(task.landlock)
    task.filter = seccomp.build(may_signal=may_signal, has_network_namespace=apart)
    filtered = bool(task.filter)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if task.alone and task.filter:  # else the runner must do what the program may not
        seccomp.install(libc, task.filter)
        task.filter = b""
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    _become_plain(task)
    return isolation, filtered


def _become_plain(task: Task) -> None:
    """The state that the processes of tests inherit: what a freshly started interpreter would have."""
    if os.geteuid() == 0 and task.uid:
        os.setgroups([])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    _set_thread_stack(task.libc, _THREAD_STACK_BYTES)
    os.umask(0o022)
    os.chdir(task.folder)
    os.environ.clear()
    os.environ.update(
        PATH="/usr/local/bin:/usr/bin:/bin",
        HOME=task.folder,
        LANG="C.UTF-8",
        LC_ALL="C.UTF-8",
        PYTHONINTMAXSTRDIGITS="0",
        PYTHONDONTWRITEBYTECODE="1",
        OPENBLAS_NUM_THREADS="1",
        OMP_NUM_THREADS="1",
    )
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(1000 + 8)  # 1000 as in a fresh interpreter, above the frames of the runner
    _make_site()
    gc.disable()


def _make_site() -> None:
    """What `site` would do: installed packages on the path (their .pth files are not run), exit, quit, help."""
    import _sitebuiltins
    import builtins

    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = [f"{prefix}/lib/{name}" for prefix in (sys.prefix, "/usr/local") for name in (
        f"{version}/site-packages", f"{version}/dist-packages", "python3/dist-packages")]  # fmt: skip
    sys.path[:] = [entry for entry in sys.path if entry] + [path for path in packages if os.path.isdir(path)]
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")  # type: ignore[assignment]
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")  # type: ignore[assignment]
    builtins.help = _sitebuiltins._Helper()  # type: ignore[assignment]


def _set_thread_stack(libc: ctypes.CDLL, size: int) -> None:
    """Stack of threads that ask for none: glibc gives 2 MiB where the main stack is unlimited, 8 MiB elsewhere."""
    attributes = ctypes.create_string_buffer(256)
    if hasattr(libc, "pthread_setattr_default_np") and libc.pthread_attr_init(attributes) == 0:
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(size))
        libc.pthread_setattr_default_np(attributes)
