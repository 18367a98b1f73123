"""configs/launch/slurm.sbatch under a real Slurm: three nodes, all of them this machine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder

SCRIPT = Path(__file__).with_name("slurm.sh")
SGLANG_PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
SMALL = ["--config", "configs/tiny.py", *small_run.ARGUMENTS, "--experience.rows-per-micro-batch=4"]
WAIT_S = 500
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def free_ports(number: int) -> int:
    """The first of so many ports in a row that are free."""
    for port in range(21000, 29000, number):
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for offset in range(number):
                taken.enter_context(socket.socket()).bind(("0.0.0.0", port + offset))
            return port
    pytest.fail(f"no {number} free ports in a row")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Variables of a Slurm that is up."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("Slurm is installed and started by root of a Debian only")
    folder = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    started = subprocess.run(
        ["sh", SCRIPT, "start", folder, str(free_ports(4))], capture_output=True, text=True, check=False
    )
    try:
        if started.returncode != 0:
            pytest.skip(f"no Slurm could be started: {started.stderr.strip().splitlines()[-1:]}")
        yield {"SLURM_CONF": started.stdout.strip().partition("=")[2]}
    finally:
        subprocess.run(["sh", SCRIPT, "stop", folder], check=False)


class Job:
    """A job of a user who sits in the repository."""

    def __init__(self, root: Path, folder: Path, environment: dict[str, str], *options: str, arguments: list[str]):
        self.folder, self.run_dir, self.environment = folder, folder / "run", environment
        self.environment |= {"RUN_DIR": str(self.run_dir), "PYTHON": sys.executable}
        self.number = self.call(
            *("sbatch", "--parsable", f"--output={self.log}", *options, "configs/launch/slurm.sbatch", *arguments),
            cwd=root,
        )

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def call(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def state(self) -> str:
        for attempt in range(10):  # a controller that is busy refuses
            with contextlib.suppress(AssertionError if attempt < 9 else ()):
                fields = self.call("scontrol", "show", "job", self.number).split()
                break
            time.sleep(1)
        return next(field for field in fields if field.startswith("JobState=")).partition("=")[2]

    def wait_for(self, what) -> None:
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < deadline and self.state not in ("FAILED", "CANCELLED", "TIMEOUT"), self.told()
            time.sleep(0.2)

    def told(self) -> str:
        return self.log.read_text()[-50_000:] if self.log.exists() else "nothing"

    def summary(self) -> dict:
        return json.loads(RunFolder(path=self.run_dir).summary.read_text())

    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in RunFolder(path=self.run_dir).metrics.read_text().splitlines()]


@pytest.fixture
def submit(root: Path, tmp_path: Path, slurm: dict[str, str]) -> Iterator:
    jobs = []

    def make(*options: str, arguments: list[str], **variables: str) -> Job:
        own = small_run.environment()
        # A test that is itself a step of a job would pass that job's variables on.
        own = {name: value for name, value in own.items() if not name.startswith(("SLURM_", "NOUSCODER_PROCESS"))}
        jobs.append(Job(root, tmp_path, own | slurm | variables, *options, arguments=arguments))
        return jobs[-1]

    yield make
    for job in jobs:
        with contextlib.suppress(AssertionError):
            job.call("scancel", job.number)


def test_four_tasks_end_in_order_before_their_time_is_up_are_queued_again_and_go_on(submit):
    job = submit(
        *("--nodes=2", "--ntasks-per-node=2"),
        arguments=[*SMALL, "--mesh.data=2", "--mesh.fsdp=2", "--num-steps=12"],
    )
    job.wait_for(RunFolder(path=job.run_dir).rollouts_of(1).exists)
    job.call("scancel", "--batch", "--signal=TERM", job.number)  # what --signal=B:TERM@300 does
    job.wait_for(lambda: job.state in ("PENDING", "COMPLETED"))
    assert job.state == "PENDING", "its steps were done before the signal came"
    told = job.told()
    assert "SIGTERM" in told and "in 4 processes" in told
    assert told.count("finishing the current update") == 1
    stopped = job.summary()
    assert not stopped["finished"] and stopped["steps"] >= 1

    # A requeued job waits two minutes; in the second it was requeued in, it would fail ("job credential revoked").
    job.call("scontrol", "update", f"JobId={job.number}", "StartTime=now+5")
    job.wait_for(lambda: job.state == "COMPLETED")
    assert f"resumed after step {stopped['steps']} " in job.told()
    assert job.summary()["finished"]
    assert [line["step"] for line in job.metrics()] == list(range(13))


@pytest.mark.skipif(not SGLANG_PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
def test_two_tasks_train_with_a_server_on_a_third_node(submit):
    port = free_ports(1)
    job = submit(
        *("--nodes=3", "--ntasks-per-node=1"),
        arguments=[*SMALL, "--mesh.tensor=2", "--num-steps=4", "--loss.max-drift=1e-3"],
        TRAIN_NODES="2",
        SERVERS_PER_NODE="1",
        SERVER_PORT=str(port),
        SGLANG_PYTHON=SGLANG_PYTHON,
    )
    job.wait_for(lambda: job.state == "COMPLETED")
    assert job.summary()["finished"] and "in 2 processes" in job.told()
    lines = job.metrics()
    assert [line["step"] for line in lines] == list(range(5))
    # Which tokens a server draws differs by processor: a step whose groups are all filtered has no update.
    drifts = [
        line[name] for line in lines for name in ("probe/drift_max", "update/on_policy_drift_max") if name in line
    ]
    assert len(drifts) >= 4 and max(drifts) < 1e-3
    with socket.socket() as server:
        assert server.connect_ex(("127.0.0.1", port)) != 0  # it ended with the job


def test_bad_input_is_not_queued_again(submit):
    job = submit("--nodes=1", "--ntasks-per-node=1", arguments=[*SMALL, "--num-steps=0"])
    deadline = time.monotonic() + WAIT_S
    while job.state in ("PENDING", "RUNNING", "COMPLETING"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert job.state == "FAILED" and [line for line in job.told().splitlines() if line.startswith("error:")] == [
        "error: num_steps is 0; use 1 or more"
    ]
    fields = job.call("scontrol", "show", "job", job.number)
    assert "ExitCode=2:0" in fields and "Restarts=0" in fields
