"""Many rollouts, and nothing grows: neither in this process, nor in the Docker host, nor on the disk.

What is there after a tenth of them, when pools, caches and threads are filled, is compared with what is there at the
end; `pytest -rP` prints both.
"""

import asyncio
import gc
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from judge_rig import make_config, make_problem
from own_docker_host import OwnDockerHost

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox

SIZES = [
    pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(7_200)]),
]
"""Numbers of rollouts."""
CANCELLED_EACH = 25
"""One rollout in so many is cancelled while it runs, as a run that ends does."""
TOLERANCES = {
    # Allocators keep pages; a leak of 1 KiB a rollout, the smallest that matters in a run of a million, is above it
    # in the full soak.
    "rss_mib": 6.0,
    # One spare container more or less at the moment of the reading: its connection, the task that reads from it.
    "fds": 4,
    "tasks": 4,
    "threads": 0,
    "children": 2,  # local runners that are kept for the next program
    "zombies": 0,
    "temporary_files": 0,
    "docker_zombies": 0,
    "mounts": 0,
    "docker_mounts": 4,  # of a spare container more or less: its root and its shared memory
    "containers": 2,
    "shims": 2,
    "cgroups": 30,  # a dozen controllers, one folder a container in each
    "docker_fds": 16,  # of one spare container more or less: its pipes, its shim's sockets
    # containerd's database grows by pages until it reuses what was freed.
    "disk_mib": 2.0,
}
"""How much more there may be at the end, and why."""
MIB_PER_ROLLOUT = 1 / 4096
"""And of memory and disk for each rollout."""
NUM_SDK_THREADS = 6
PAIR = [("2 3\n", "5\n"), ("20 30\n", "50\n")]
ADD = "print(sum(map(int, input().split())))"
KINDS = (
    (ADD, Outcome.ACCEPTED),
    (f"import os\nif os.fork() == 0:\n    while True: pass\n{ADD}", Outcome.ACCEPTED),
    (f"for n in range(50):\n    open(f'/tmp/{{n}}', 'w').write('x' * 10000)\n{ADD}", Outcome.ACCEPTED),
    ("print(6)", Outcome.WRONG_ANSWER),
    ("print('x' * 200000)", Outcome.WRONG_ANSWER),
    (f"{ADD}\n1 / 0", Outcome.RUNTIME_ERROR),
    ("import os\nos.kill(os.getpid(), 9)", Outcome.RUNTIME_ERROR),
    ("print('x' * (2 << 20))", Outcome.OUTPUT_LIMIT),
    ("held = bytearray(10**12)", Outcome.MEMORY_LIMIT),
)
ENDLESS = ("while True: pass", Outcome.TIME_LIMIT)
TASK_LIMIT_S = 0.1


def rollout(number):
    """(problem, program, expected outcome); one in 50 runs into the time limit, the rest are quick."""
    program, outcome = ENDLESS if number % 50 == 49 else KINDS[number % len(KINDS)]
    limit_s = TASK_LIMIT_S if outcome is Outcome.TIME_LIMIT else 2.0
    return make_problem(PAIR, time_limit_s=limit_s), f"# {number}\n{program}", outcome


async def judge_some(judge, numbers):
    """Judges these rollouts and cancels some of them."""

    async def one(number):
        problem, program, expected = rollout(number)
        task = asyncio.ensure_future(judge.judge(problem, program))
        if number % CANCELLED_EACH == 0:
            await asyncio.sleep(0.01 * (number % 7))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        verdict = await task
        assert verdict.outcome is expected, f"{program!r}: {verdict}"

    for start in range(0, len(numbers), 20):
        await asyncio.gather(*(one(number) for number in numbers[start : start + 20]))


async def settled_reading(read):
    """A reading once two in a row agree: spare sandboxes are made, containers that ended are removed."""
    last = read()
    for _ in range(30):
        await asyncio.sleep(0.5)
        last, before = read(), last
        if {**last, "rss_mib": 0, "disk_mib": 0} == {**before, "rss_mib": 0, "disk_mib": 0}:
            break
    return last


def processes():
    """pid -> (parent, state, command line) of every process."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            found[int(name)] = (int(words[1]), words[0], Path(f"/proc/{name}/cmdline").read_text())
        except (OSError, UnicodeDecodeError):
            continue
    return found


def below(pid, everything):
    """Every process under this one."""
    children = [child for child, (parent, *_) in everything.items() if parent == pid]
    return children + [other for child in children for other in below(child, everything)]


def num_files(folder):
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:  # of a process that has ended meanwhile
        return 0


def read_host(temporary, *, before):
    """What this process holds, but for the processes `before` that earlier tests of this session have left it."""
    gc.collect()
    everything = processes()
    mine = [pid for pid in below(os.getpid(), everything) if pid not in before]
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mib": resident * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
        "fds": num_files("/proc/self/fd"),
        "threads": num_files("/proc/self/task"),
        "tasks": len(asyncio.all_tasks()),
        "children": len(mine),
        "zombies": sum(everything[pid][1] == "Z" for pid in mine),
        "temporary_files": num_files(temporary),
        # Below /tmp/ lie other tests' Docker hosts; a sandbox that leaks covers /tmp, /proc or /dev/shm themselves.
        "mounts": sum(" /tmp/" not in line for line in Path("/proc/self/mounts").read_text().splitlines()),
    }


def read_docker_host(docker_host):
    """What a Docker host holds, seen from outside where it can be."""
    everything = processes()
    own = [docker_host.pid, *below(docker_host.pid, everything)]
    folder = str(docker_host.folder)
    shims = [pid for pid, (_, state, line) in everything.items() if "containerd-shim" in line and folder in line]
    disk = subprocess.run(["du", "-skx", docker_host.root], capture_output=True, text=True, check=False).stdout
    return {
        "containers": len(docker_host.docker("ps", "-aq")),
        "shims": len(shims),
        "docker_zombies": sum(everything[pid][1] == "Z" for pid in own),
        # crun's Docker host has mounts of its own, which only it sees.
        "docker_mounts": Path(f"/proc/{docker_host.pid}/mounts").read_text().count(folder),
        "cgroups": sum(path.is_dir() for path in Path("/sys/fs/cgroup").glob(f"*/{docker_host.folder.name}/*")),
        "docker_fds": sum(num_files(f"/proc/{pid}/fd") for pid in own),
        "disk_mib": int(disk.split()[0]) / 1024,
    }


async def soak(config, read, *, rollouts):
    """Readings after a tenth of the rollouts, at the end, and after the judge was closed."""
    judge = SandboxJudge(make_sandbox(config), config, stop_at_first_failure=True, say=print)
    try:
        await judge_some(judge, range(rollouts // 10))
        early = await settled_reading(read)
        await judge_some(judge, range(rollouts // 10, rollouts))
        late = await settled_reading(read)
    finally:
        await judge.close()
    return early, late, await settled_reading(read)


def assert_no_growth(early, late, tolerances, *, rollouts):
    print(f"{rollouts} rollouts")
    per_rollout = {name: tolerances[name] + rollouts * MIB_PER_ROLLOUT for name in ("rss_mib", "disk_mib")}
    tolerances = tolerances | per_rollout
    for name in early:
        print(f"{name:16} after a tenth {early[name]:10.2f}   at the end {late[name]:10.2f}")
    grown = {name: (early[name], late[name]) for name in early if late[name] - early[name] > tolerances[name]}
    assert grown == {}


def filling(num_containers):
    """Tolerances while the SDK still fills its pools: it keeps a connection for each of the last 25 addresses it asked,
    a container is an address, and each thread has a client."""
    if num_containers >= 100:
        return TOLERANCES
    connections = 25 * NUM_SDK_THREADS
    return TOLERANCES | {name: TOLERANCES[name] + connections for name in ("fds", "docker_fds")}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which this process makes temporary files, and nobody else."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def docker_host():
    """A Docker host that nobody else uses, so that whatever it holds is this test's."""
    made = OwnDockerHost()
    yield made
    made.close()


@pytest.mark.parametrize("rollouts", SIZES)
@pytest.mark.parametrize("reuse", [1, 10])
def test_nothing_grows_while_containers_judge(docker_host, temporary, reuse, rollouts):
    config = make_config("docker", docker_hosts=(docker_host.address,), rollouts_per_sandbox=reuse)
    before = below(os.getpid(), processes())

    def read():
        return read_host(temporary, before=before) | read_docker_host(docker_host)

    early, late, closed = asyncio.run(soak(config, read, rollouts=rollouts))
    assert_no_growth(early, late, filling(rollouts // 10 // reuse), rollouts=rollouts)
    left = {name: closed[name] for name in ("containers", "shims", "children", "zombies", "temporary_files")}
    assert left == dict.fromkeys(left, 0)


@pytest.mark.parametrize("rollouts", SIZES)
@pytest.mark.parametrize("reuse", [1, 10])
def test_nothing_grows_while_local_runners_judge(temporary, reuse, rollouts):
    config = make_config("local", rollouts_per_sandbox=reuse)
    before = below(os.getpid(), processes())
    early, late, closed = asyncio.run(soak(config, lambda: read_host(temporary, before=before), rollouts=rollouts))
    assert_no_growth(early, late, TOLERANCES, rollouts=rollouts)
    left = {name: closed[name] for name in ("children", "zombies", "temporary_files")}
    assert left == dict.fromkeys(left, 0)
