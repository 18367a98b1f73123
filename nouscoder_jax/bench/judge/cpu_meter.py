"""CPU seconds of all that a bench makes work: this process, what it starts, the Docker daemon, its containers.

In: the processes of a Docker daemon. Out: CPU seconds so far; wall time on a machine that others use says little.

On Linux with cgroup v1, as root, this process and the daemon enter a cpuacct group for the time of the benchmark, and
the group of its containers is read beside it; groups count processes that are gone. Elsewhere the whole
machine is counted (/proc/stat), so nothing else may run. `CpuMeter.how` says which.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from types import TracebackType

_STAT = Path("/proc/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_COLUMNS = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq; not idle, not iowait, not what a hypervisor took


class CpuMeter:
    """Counts CPU seconds while the context is open.

    Example:
        with CpuMeter(daemon_processes(os.environ.get("DOCKER_HOST", ""))) as meter:
            before = meter.cpu_s()
    """

    def __init__(self, daemon: list[int]) -> None:
        """`daemon`: processes of a Docker daemon on this machine; may be empty."""
        self._daemon = daemon
        self._group: Path | None = None
        self._groups: list[Path] = []
        self._came_from: dict[int, Path] = {}
        self.how = "the whole machine (/proc/stat): nothing else may run beside it"

    def __enter__(self) -> CpuMeter:
        root = _cpuacct_root()
        if root is None or not os.access(root, os.W_OK):
            return self
        containers = root / _cgroup_parent(self._daemon).lstrip("/")
        group = root / f"nouscoder-bench-{os.getpid()}"
        try:
            group.mkdir(exist_ok=True)
            for pid in [os.getpid(), *self._daemon]:
                self._came_from[pid] = root / _group_of(pid).lstrip("/")
                (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            self._leave(group)
            return self
        self._group, self._groups = group, [group, containers] if self._daemon else [group]
        self.how = "this process, what it started" + (", the Docker daemon and its containers" if self._daemon else "")
        self.how += " (cpuacct)"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._group is not None:
            self._leave(self._group)

    def cpu_s(self) -> float:
        """CPU seconds so far; only differences mean something."""
        if self._group is None:
            return machine_cpu_s()
        return sum(_usage_s(group) for group in self._groups)

    def _leave(self, group: Path) -> None:
        """Puts every process of the group back, those that the daemon has started since as well."""
        with contextlib.suppress(OSError):
            for pid in map(int, (group / "cgroup.procs").read_text().split()):
                back = self._came_from.get(pid, group.parent)
                with contextlib.suppress(OSError):  # it has ended
                    (back / "cgroup.procs").write_text(str(pid))
            group.rmdir()


def machine_cpu_s() -> float:
    """CPU seconds of the whole machine since it started."""
    words = _STAT.read_text().partition("\n")[0].split()[1:]
    return sum(int(words[column]) for column in _BUSY_COLUMNS) / _TICKS_PER_S


def daemon_processes(docker_host: str) -> list[int]:
    """The daemon behind a unix socket of this machine and its descendants; empty where that cannot be seen."""
    path = docker_host.removeprefix("unix://") if docker_host.startswith("unix://") else "/var/run/docker.sock"
    if docker_host and not docker_host.startswith("unix://"):
        return []
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return []
    pid = struct.unpack("3i", credentials)[0]
    if pid <= 1:  # another pid namespace, or a socket that init holds for the daemon
        return []
    found = descendants(pid)
    # Shims are the children of containerd; where that is no child of the daemon, they would not be counted.
    return [pid, *found] if any(_name(child) == "containerd" for child in found) else []


def descendants(pid: int) -> list[int]:
    """Every process below this one."""
    parents = {int(name): _parent(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        children = [child for child, above in parents.items() if above == parent]
        found += children
        queue += children
    return found


def _cpuacct_root() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpuacct" in options.split(","):
            return Path(folder)
    return None


def _group_of(pid: int) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return path
    return "/"


def _cgroup_parent(daemon: list[int]) -> str:
    """The group under which a daemon with the cgroupfs driver puts its containers."""
    words = Path(f"/proc/{daemon[0]}/cmdline").read_bytes().decode().split("\0") if daemon else []
    for number, word in enumerate(words):
        if word.startswith("--cgroup-parent"):
            return word.partition("=")[2] or words[number + 1]
    return "/docker"


def _usage_s(group: Path) -> float:
    try:
        return int((group / "cpuacct.usage").read_text()) / 1e9
    except FileNotFoundError:  # the daemon makes it with its first container
        return 0.0


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
