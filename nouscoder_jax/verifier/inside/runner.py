"""The first process of a sandbox: receives a program once and one input at a time, and forks a process for each test.

In: frames (nouscoder_jax/verifier/inside/protocol.py) on stdin. Out: frames on stdout. It runs as pid 1 of a container
or of fresh namespaces, from text sent to a bare `python`, so standard library only, and it never learns an expected
output. pid 1 cannot be killed or stopped from inside, and a process that is not dumpable cannot be looked into.

A test's process starts as a copy of this one. So no program, input or output ever passes through this process' own
memory allocator, where a later program could find it: contents go from file to file, or through memory that a fork
wipes (channel.py).

After each test it kills and reaps whatever the program left, and wipes the writable folders; if that fails the answer
says `clean=0` and the host throws the sandbox away.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from nouscoder_jax.verifier.inside import candidate, processes
from nouscoder_jax.verifier.inside.channel import Channel, GoneError
from nouscoder_jax.verifier.inside.setup import set_up
from nouscoder_jax.verifier.inside.usage import Meter
from nouscoder_jax.verifier.inside.watch import Watch

_MIB = 1 << 20
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_SHOWN_OF_STDERR = 1000
_SWEEP_S = 5.0
_EXIT_CRASHED = 70


class Runner:
    """Serves one host until it closes the connection."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.task = candidate.Task()
        self.task.alone = os.getpid() == 1
        self.meter = Meter()
        self.folders: list[str] = []
        self.mounts: list[str] = []
        self.empty_inodes: dict[str, int] = {}
        self.fresh_inodes: dict[str, int] = {}
        self.program_file = (0, 0)
        self.limit_processes = False

    def serve(self) -> None:
        """Answers one request after another. Raises GoneError."""
        while True:
            fields, body_size = self.channel.request()
            body = os.memfd_create("body", _MFD_CLOEXEC)
            try:
                self.channel.receive(body_size, body)
                if fields["op"] == "setup":
                    self.channel.answer(self.setup(fields), body, 0, 0)
                elif fields["op"] == "open":
                    self.channel.answer(self.open(fields, body, body_size), body, 0, 0)
                else:
                    self.run(body)
            except OSError as error:
                self.channel.answer({"judge_error": f"{fields['op']}: {error}"}, body, 0, 0)
            finally:
                os.close(body)

    # -- once ----------------------------------------------------------------------------------------------------

    def setup(self, fields: dict[str, str]) -> dict[str, object]:
        """Isolates this process, and looks at the folders that programs may write while they are empty."""
        task, channel = self.task, self.channel
        isolation, filtered = set_up(task, fields, descriptors=(channel.descriptor_in, channel.descriptor_out))
        self.limit_processes = isolation == "root" or (task.uid != 0 and not task.alone)
        self.folders = [task.folder] + [folder for folder in ("/dev/shm",) if fields["enter"] != "nothing"]
        self.mounts = [folder for folder in self.folders if os.path.ismount(folder)]
        self.empty_inodes = {folder: self.inodes(folder) for folder in self.folders}
        self.fresh_inodes = dict(self.empty_inodes)
        if isolation == "container":
            self.meter.use_control_group()
        return {"isolation": isolation, "filter": int(filtered), "python": sys.version.split()[0]}

    def open(self, fields: dict[str, str], source: int, size: int) -> dict[str, object]:
        """Takes a program, a file of so many bytes, and its limits."""
        task = self.task
        task.needs_finalizers = fields["finalizers"] == "1"
        task.fn_name = fields["fn_name"]
        task.cpu_s = float(fields["cpu_s"])
        task.wall_s = float(fields["wall_s"])
        task.memory_mib = int(fields["memory_mib"])
        task.output_mib = int(fields["output_mib"])
        task.max_processes = int(fields["max_processes"])
        task.limits = candidate.limits(
            cpu_s=task.cpu_s, memory_mib=task.memory_mib, output_mib=task.output_mib,
            max_processes=task.max_processes if self.limit_processes else 0,
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
            watch = Watch(task, self.meter, pid, started, host=self.channel.descriptor_in)
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
            self.channel.answer(fields, descriptor, 0, size)
        else:
            size = min(sizes[1], _SHOWN_OF_STDERR) if status == "exception" else 0
            self.channel.answer(fields, task.stderr_fd, sizes[1] - size, size)

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
            return "time_limit", f"{task.wall_s:g} seconds on the clock"
        if code < 0:
            return "signalled", watch.ended_for or f"signal {-code}"
        return ("exception" if code == candidate.EXIT_EXCEPTION else "exited"), ""

    def sweep(self, watch: Watch) -> bool:
        """Kills what the program left running, empties the folders. False: not everything is gone."""
        deadline = time.monotonic() + _SWEEP_S
        while watch.reap():
            processes.kill_all(alone=self.task.alone)
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


def main() -> None:
    """Moves the connection away from stdin and stdout, then serves until the host is gone."""
    descriptor_in, descriptor_out = 250, 251
    os.dup2(0, descriptor_in, inheritable=False)
    os.dup2(1, descriptor_out, inheritable=False)
    runner = Runner(Channel(descriptor_in, descriptor_out))
    for name in [name for name in sys.modules if name.partition(".")[0] == "nouscoder_jax"]:
        del sys.modules[name]
    code = _EXIT_CRASHED
    try:
        runner.serve()
    except (GoneError, BrokenPipeError):
        code = 0
    finally:
        if not runner.task.alone:  # else the kernel ends the rest of the namespace
            processes.kill_all(alone=False)
        os._exit(code)
