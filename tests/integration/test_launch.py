"""Launch files start runs of several processes. ssh is a shell here; Slurm is real, where it is installed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder

ARGUMENTS = ["--config", "configs/tiny.py", *small_run.ARGUMENTS, "--mesh.data=2"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    shell = tmp_path / "ssh"
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    shell.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return small_run.environment() | {
        "SSH": str(shell),
        "PYTHON": sys.executable,
        "PORT": str(port),
    }


def launch(root: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["configs/launch/two_machines.sh", "127.0.0.1", "localhost", *arguments],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def summary(run_dir: Path) -> dict:
    return json.loads(RunFolder(path=run_dir).summary.read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_train_together_and_end_in_order_at_ctrl_c(root: Path, tmp_path: Path, environment):
    run_dir = tmp_path / "run"
    launched = launch(root, environment, *ARGUMENTS, f"--run-dir={run_dir}", "--num-steps=500")
    try:
        deadline = time.monotonic() + 400
        while not RunFolder(path=run_dir).rollouts_of(2).exists():
            assert time.monotonic() < deadline and launched.poll() is None
            time.sleep(0.05)
        os.killpg(launched.pid, signal.SIGINT)
        told, _ = launched.communicate(timeout=200)
    finally:
        launched.kill()
    assert launched.returncode == 0, told
    assert "in 2 processes" in told and "finishing the current update" in told
    stopped = summary(run_dir)
    assert not stopped["finished"] and stopped["steps"] >= 2

    goes_on = launch(root, environment, "--resume", str(run_dir), f"--num-steps={stopped['steps'] + 1}")
    told, _ = goes_on.communicate(timeout=400)
    assert goes_on.returncode == 0 and summary(run_dir)["finished"], told


def test_one_machine_is_too_few(root: Path, environment):
    alone = subprocess.run(
        ["configs/launch/two_machines.sh", "gpu1", "--num-steps=1"],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 2 and "error: got 1 machines" in alone.stderr
