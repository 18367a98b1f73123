"""A Docker host of its own for a test that breaks it: start, kill, stop, look what is left."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "docker_engine.sh"


class OwnDockerHost:
    """dockerd in a folder of its own; `root_mib`: size of the file system that holds its images and containers."""

    def __init__(self, *, options=(), root_mib=None):
        if os.geteuid() != 0 or shutil.which("dockerd") is None:
            pytest.skip("a Docker host that may be killed needs root and dockerd (apt-get install docker.io)")
        self.folder = Path(tempfile.mkdtemp(prefix="judge-"))  # not tmp_path: a socket's path has 107 characters
        self.root = self.folder / "root"
        self.options = ["--cgroup-parent", f"/{self.folder.name}", *options]
        self.address = f"unix://{self.folder}/docker.sock"
        self.on_tmpfs = root_mib is not None
        if self.on_tmpfs:
            self.root.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={root_mib}m", "tmpfs", self.root], check=True)
        self.start()

    @property
    def pid(self):
        return int((self.folder / "docker.pid").read_text())

    def start(self):
        subprocess.run([SCRIPT, "start", self.folder, *self.options], capture_output=True, check=True, timeout=60)

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """As a crash: nothing is tidied up."""
        pid = self.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while alive(pid):
            time.sleep(0.02)

    def stop_in_order(self):
        """As a service manager does: it ends its containers and leaves."""
        pid = self.pid
        os.kill(pid, signal.SIGTERM)
        while alive(pid):
            time.sleep(0.02)

    def docker(self, *arguments):
        done = subprocess.run(["docker", "-H", self.address, *arguments], capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    def containers(self):
        """Those of the judge; containers that are being removed get a moment."""
        for _ in range(100):
            if not (found := self.docker("ps", "-aq")):
                break
            time.sleep(0.1)
        return found

    def runners(self):
        """Processes of containers, found without asking the Docker host."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cgroup") as file:
                    if any(f"/{self.folder.name}/" in line for line in file):
                        found.append(describe(int(name)))
            except OSError:
                continue
        return found

    def close(self):
        subprocess.run([SCRIPT, "stop", self.folder], capture_output=True, check=False, timeout=60)
        if self.on_tmpfs:
            subprocess.run(["umount", "-l", self.root], capture_output=True, check=False)
        for cgroup in sorted(Path("/sys/fs/cgroup").glob(f"*/{self.folder.name}/**/"), reverse=True):
            with contextlib.suppress(OSError):
                cgroup.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)


def describe(pid):
    """A process for a message: its state and what it waits for."""
    with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/wchan") as waits, open(f"/proc/{pid}/cmdline") as line:
        fields = stat.read().rpartition(")")[2].split()
        return f"{pid} {fields[0]} {waits.read()} {line.read()[:30]!r} {fields[19]}"


def alive(pid):
    """Whether the process runs; one that nobody waits for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
