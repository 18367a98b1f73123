"""The first process of a sandbox: receives a program once and one input at a time, and forks a process for each test.

In: frames (nouscoder_jax/verifier/inside/protocol.py) on stdin. Out: frames on stdout. It runs as pid 1 of a container
or of fresh namespaces, from text sent to a bare `python`, so standard library only, and it never learns an expected
output. pid 1 cannot be killed or stopped from inside, and a process that is not dumpable cannot be looked into.

A test's process starts as a copy of this one. So no program, input or output ever passes through this process' own
memory allocator, where a later program could find it: contents go from file to file, or through memory that a fork
wipes.

After each test it kills and reaps whatever the program left, and wipes the writable folders; if that fails the answer
says `clean=0` and the host throws the sandbox away.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import select
import sys
import time

from nouscoder_jax.verifier.inside import candidate, landlock, namespaces, protocol, seccomp
from nouscoder_jax.verifier.inside.usage import Meter
from nouscoder_jax.verifier.inside.watch import GoneError, Watch

_MIB = 1 << 20
_SIGKILL = 9
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 36, 38
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_OPEN_FILES = 256
_PIPE_BYTES = 1 << 16
_SHOWN_OF_STDERR = 1000
_MADV_WIPEONFORK = 18
_SWEEP_S = 5.0
_EXIT_CRASHED = 70
# An engine that was killed leaves its containers' lines open: nobody will ever speak, or hang up.
_MOST_IDLE_S = 3600


class Runner:
    """Serves one host over one pair of file descriptors until the line closes."""

    def __init__(self, control_in: int, control_out: int) -> None:
        self.control_in = control_in
        self.control_out = control_out
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.task = candidate.Task()
        self.wall_s = 0.0
        self.alone = os.getpid() == 1
        self.folders: list[str] = []
        self.mounts: list[str] = []
        self.empty_inodes: dict[str, int] = {}
        self.fresh_inodes: dict[str, int] = {}
        self.program_file = (0, 0)
        self.through = _forgetful_memory(_MIB)
        self.limit_processes = False
        self.max_processes = 0
        self.meter = Meter()

    # -- the line ------------------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = os.read(self.control_in, min(size, _MIB))
            if not chunk:
                raise GoneError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def receive(self, size: int, descriptor: int) -> None:
        """The next `size` bytes of the line, into a file."""
        while size:
            view = self.through[: min(size, _MIB)]
            length = os.readv(self.control_in, [view])
            if not length:
                raise GoneError
            size -= length
            view = view[:length]
            while view:
                view = view[os.write(descriptor, view) :]

    def answer(self, fields: dict[str, object], descriptor: int, start: int, size: int) -> None:
        """Fields, and as body a part of a file."""
        head = protocol.pack(fields, size)
        if len(head) + size <= _PIPE_BYTES:  # in one piece: each piece wakes the engine and the host
            length = os.preadv(descriptor, [self.through[:size]], start) if size else 0
            pieces = [head, self.through[:length]]
        else:
            length, pieces = 0, [head]
        written = os.writev(self.control_out, pieces)
        if written != sum(map(len, pieces)):
            raise RuntimeError("the line took a part of an answer")
        start, size = start + length, size - length
        while size:
            sent = os.sendfile(self.control_out, descriptor, start, size)
            if not sent:
                raise RuntimeError("an output became shorter after its program ended")
            start, size = start + sent, size - sent

    def serve(self) -> None:
        idle = select.poll()
        idle.register(self.control_in, select.POLLIN)
        while True:
            if not idle.poll(_MOST_IDLE_S * 1000):
                raise GoneError
            fields_size, body_size = protocol.HEAD.unpack(self.read(protocol.HEAD.size))
            fields = protocol.unpack_fields(self.read(fields_size))
            body = os.memfd_create("body", _MFD_CLOEXEC)
            try:
                self.receive(body_size, body)
                if fields["op"] == "setup":
                    self.answer(self.setup(fields), body, 0, 0)
                elif fields["op"] == "open":
                    self.answer(self.open(fields, body, body_size), body, 0, 0)
                else:
                    self.run(body)
            except OSError as error:
                self.answer({"judge_error": f"{fields['op']}: {error}"}, body, 0, 0)
            finally:
                os.close(body)

    # -- once ----------------------------------------------------------------------------------------------------

    def setup(self, fields: dict[str, str]) -> dict[str, object]:
        """Makes the place: namespaces where asked for, then a runner that nobody can look into."""
        task = self.task
        task.uid = int(fields["uid"])
        task.folder = fields["folder"]
        isolation, apart = "container", fields["enter"] != "nothing"
        if fields["enter"] == "namespaces":
            isolation = namespaces.enter(self.libc, task.uid, (self.control_in, self.control_out))
            self.alone = os.getpid() == 1
            task.uid = task.uid if isolation == "root" else 0
        elif not apart:
            isolation = "nothing"
        task.libc, task.alone, task.code_fd = self.libc, self.alone, -1
        task.source_fd = -1
        task.landlock = 0
        if not apart:
            task.landlock = landlock.version(self.libc)
            isolation = "landlock" if task.landlock else isolation
            if task.uid:
                os.chown(task.folder, task.uid, task.uid)
        may_signal = self.alone or task.uid != 0 or landlock.keeps_signals_in(task.landlock)
        task.filter = seccomp.build(may_signal=may_signal, has_network_namespace=apart)
        filtered = int(bool(task.filter))
        self.limit_processes = isolation == "root" or (task.uid != 0 and not self.alone)
        self.libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self.libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if self.alone and task.filter:  # else the runner must do what the program may not
            seccomp.install(self.libc, task.filter)
            task.filter = b""
        self.folders = [task.folder] + [folder for folder in ("/dev/shm",) if apart]
        self.mounts = [folder for folder in self.folders if os.path.ismount(folder)]
        self.empty_inodes = {folder: self.inodes(folder) for folder in self.folders}
        self.fresh_inodes = dict(self.empty_inodes)
        if isolation == "container":
            self.meter.use_control_group()
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(nothing, number)
        os.close(nothing)
        self.become_plain()
        return {"isolation": isolation, "filter": filtered, "python": sys.version.split()[0]}

    def become_plain(self) -> None:
        """The state that the processes of tests inherit: what a freshly started interpreter would have."""
        if os.geteuid() == 0 and self.task.uid:
            os.setgroups([])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
        _set_thread_stack(self.libc, 16 * _MIB)
        os.umask(0o022)
        os.chdir(self.task.folder)
        os.environ.clear()
        os.environ.update(
            PATH="/usr/local/bin:/usr/bin:/bin",
            HOME=self.task.folder,
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

    def open(self, fields: dict[str, str], source: int, size: int) -> dict[str, object]:
        """Takes a program, a file of so many bytes, and its limits."""
        task = self.task
        task.needs_finalizers = fields["finalizers"] == "1"
        task.fn_name = fields["fn_name"]
        task.cpu_s = float(fields["cpu_s"])
        task.memory_mib = int(fields["memory_mib"])
        task.output_mib = int(fields["output_mib"])
        self.wall_s = float(fields["wall_s"])
        self.max_processes = int(fields["max_processes"])
        task.limits = candidate.limits(
            cpu_s=task.cpu_s, memory_mib=task.memory_mib, output_mib=task.output_mib,
            max_processes=self.max_processes if self.limit_processes else 0,
        )  # fmt: skip
        for name in fields["modules"].split() + ["json"] * bool(task.fn_name):
            try:
                __import__(name)
            except ImportError:  # the program will see for itself
                continue
        for descriptor in (task.code_fd, task.source_fd):
            if descriptor >= 0:
                os.close(descriptor)
        task.source_fd, self.source_size = os.dup(source), size
        task.code_fd = os.memfd_create("code", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
        candidate.prepare(task)
        self.write_program()
        gc.freeze()
        return {"ok": 1}

    def write_program(self) -> None:
        """The program as a file, for programs that start themselves again or read their own text."""
        path = os.path.join(self.task.folder, candidate.PROGRAM_PATH)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        copied = 0
        while copied < self.source_size:
            copied += os.sendfile(descriptor, self.task.source_fd, copied, self.source_size - copied)
        found = os.fstat(descriptor)
        os.close(descriptor)
        self.program_file = (found.st_ino, found.st_ctime_ns)
        self.fresh_inodes[self.task.folder] = self.inodes(self.task.folder)

    def program_is_untouched(self) -> bool:
        try:
            found = os.lstat(os.path.join(self.task.folder, candidate.PROGRAM_PATH))
        except OSError:
            return False
        return (found.st_ino, found.st_ctime_ns) == self.program_file

    # -- a test --------------------------------------------------------------------------------------------------

    def run(self, stdin: int) -> None:
        """Runs the program on one input, a file, answers, and leaves nothing of it behind."""
        task = self.task
        opened = [os.memfd_create(name, _MFD_CLOEXEC) for name in ("stdout", "stderr")]
        task.stdout_fd, task.stderr_fd = opened
        task.stdin_fd = stdin
        task.result_fd = -1
        if task.fn_name:
            task.result_fd = os.memfd_create("result")
            opened.append(task.result_fd)
        ready, task.ready_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        opened += [ready, task.ready_fd]
        try:
            os.lseek(task.stdin_fd, 0, os.SEEK_SET)
            self.meter.begin()
            started = time.monotonic()
            pid = os.fork()
            if pid == 0:
                candidate.become(task)
            watch = Watch(self, pid, started)
            watch.until_end()
            at_end = self.sizes()
            clean = self.sweep(watch)
            sizes = list(map(min, at_end, self.sizes()))  # what came after the end does not count, what went is gone
            watch.finish()
            said = _read_some(ready, 400)
            if not said.startswith(b"R"):
                reason = said[1:].decode("utf-8", "replace") or "it ended before the program's first line"
                raise OSError(f"the process of a test could not be prepared: {reason}")
            self.conclude(watch, sizes, clean, self.meter.oom_rose())
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def sizes(self) -> list[int]:
        """Bytes in the files of stdout, stderr and the result."""
        task = self.task
        return [os.fstat(fd).st_size for fd in (task.stdout_fd, task.stderr_fd, max(task.result_fd, 0))]

    def conclude(self, watch: Watch, sizes: list[int], clean: bool, oom: bool) -> None:
        """Answers with one status; as body the output, or the end of stderr."""
        task = self.task
        status, detail = self.status_of(watch, sizes, oom)
        fields = {
            "status": status, "detail": detail, "cpu_s": f"{watch.cpu_s:.6f}", "wall_s": f"{watch.wall_s:.6f}",
            "peak_mib": f"{watch.peak_mib:.2f}", "clean": int(clean),
        }  # fmt: skip
        if status == "exited":
            descriptor, size = (task.result_fd, sizes[2]) if task.fn_name else (task.stdout_fd, sizes[0])
            self.answer(fields, descriptor, 0, size)
        else:
            size = min(sizes[1], _SHOWN_OF_STDERR) if status == "exception" else 0
            self.answer(fields, task.stderr_fd, sizes[1] - size, size)

    def status_of(self, watch: Watch, sizes: list[int], oom: bool) -> tuple[str, str]:
        """What happened, and the limit that was reached, by the order in nouscoder_jax/verifier/sandbox.py."""
        task, code = self.task, watch.code
        printed = max(sizes if task.fn_name else sizes[:2])
        if watch.ended_for == "output_limit" or printed > task.output_mib * _MIB:
            return "output_limit", f"more than {task.output_mib} MiB printed"
        if oom or watch.ended_for == "memory_limit" or code == candidate.EXIT_MEMORY:
            return "memory_limit", f"more than {task.memory_mib} MiB"
        if watch.cpu_s > task.cpu_s:
            return "time_limit", f"{watch.cpu_s:.2f} CPU seconds"
        if watch.ended_for == "time_limit":
            return "time_limit", f"{self.wall_s:g} seconds on the clock"
        if code < 0:
            return "signalled", watch.ended_for or f"signal {-code}"
        return ("exception" if code == candidate.EXIT_EXCEPTION else "exited"), ""

    def sweep(self, watch: Watch) -> bool:
        """Kills what the program left running, empties the folders. False: not everything is gone."""
        deadline = time.monotonic() + _SWEEP_S
        while watch.reap():
            self.kill_all()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        for folder in self.folders:
            changed = folder == self.task.folder and not self.program_is_untouched()
            if changed or self.inodes(folder) != self.fresh_inodes[folder]:
                _empty(folder)
                if self.inodes(folder) != self.empty_inodes[folder]:
                    return False
                if folder == self.task.folder:
                    self.write_program()
        return True

    def inodes(self, folder: str) -> int:
        """Inodes in use on the folder's own small file system; entries of the folder where it has none."""
        if folder in self.mounts:
            numbers = os.statvfs(folder)
            return numbers.f_files - numbers.f_ffree
        return len(os.listdir(folder)) if os.path.isdir(folder) else 0

    def kill_all(self) -> None:
        """SIGKILL to every process but this one, or to every descendant where other processes are in sight."""
        for pid in [-1] if self.alone else self.others():
            try:
                os.kill(pid, _SIGKILL)
            except ProcessLookupError:
                continue

    def others(self) -> list[int]:
        """Every process of the program."""
        own = os.getpid()
        if self.alone:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]
        found, queue = [], [own]
        while queue:
            pid = queue.pop()
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                        children = [int(word) for word in file.read().split()]
                    found += children
                    queue += children
            except OSError:
                continue
        return found


def _forgetful_memory(size: int) -> memoryview:
    """Memory that a forked process finds empty."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_WIPEONFORK)
    return memoryview(memory)


def _read_some(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return b""


def _empty(folder: str) -> None:
    """Removes everything in the folder, however deep; what cannot be removed stays and is found by counting.

    A folder's children move up before it is removed, so that no path grows long and no descriptor is kept.
    """
    deadline, number = time.monotonic() + _SWEEP_S, 0
    while time.monotonic() < deadline and (entries := list(os.scandir(folder))):
        for entry in entries:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)
                for child in list(os.scandir(entry.path)):
                    if not child.is_dir(follow_symlinks=False):
                        os.unlink(child.path)
                        continue
                    number += 1
                    os.chmod(child.path, 0o700)
                    os.rename(child.path, os.path.join(folder, f".{number}"))
                os.rmdir(entry.path)
            except OSError:
                continue


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


def main() -> None:
    """Moves the line away from stdin and stdout, then serves until the host is gone."""
    control_in, control_out = 250, 251
    os.dup2(0, control_in, inheritable=False)
    os.dup2(1, control_out, inheritable=False)
    runner = Runner(control_in, control_out)
    for name in [name for name in sys.modules if name.partition(".")[0] == "nouscoder_jax"]:
        del sys.modules[name]
    code = _EXIT_CRASHED
    try:
        runner.serve()
    except (GoneError, BrokenPipeError):
        code = 0
    finally:
        if not runner.alone:  # else the kernel ends the rest of the namespace
            runner.kill_all()
        os._exit(code)
