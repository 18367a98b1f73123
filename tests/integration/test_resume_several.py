"""Runs that do not end well for another reason than one kill: two processes killed and resumed; a disk that is full."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run

SMALL = [*small_run.ARGUMENTS, "--checkpoint.every-steps=2"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Pair:
    """A run of two processes on this machine, one device each."""

    def __init__(self, root: Path, folder: Path, cache: Path) -> None:
        self.root, self.run_dir, self.folder = root, folder / "run", folder
        folder.mkdir()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = small_run.environment(cache) | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def start(self) -> None:
        """Starts or resumes."""
        resume = (self.run_dir / "config.json").exists()
        arguments = ["--resume", str(self.run_dir)] if resume else [f"--run-dir={self.run_dir}", *SMALL]
        mesh = ["--mesh.num-processes=2", "--mesh.data=2", f"--mesh.coordinator-address=127.0.0.1:{free_port()}"]
        self.processes = []
        for number in range(2):
            with (self.folder / f"{number}.log").open("a") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "scripts/train.py", *arguments, *mesh],
                        cwd=self.root,
                        env=self.environment | {"NOUSCODER_PROCESS_ID": str(number)},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def end(self) -> None:
        """Whatever a test that failed has left."""
        for process in self.processes:
            process.kill()
            process.wait()

    def logs(self) -> str:
        return "\n".join((self.folder / f"{number}.log").read_text()[-3000:] for number in range(2))

    def finish(self) -> None:
        for process in self.processes:
            assert process.wait(timeout=400) == 0, self.logs()

    def kill_after(self, file: str) -> None:
        """Kills both once a file is there."""
        deadline = time.monotonic() + 400
        while not (self.run_dir / file).exists():
            assert time.monotonic() < deadline and all(p.poll() is None for p in self.processes), self.logs()
            time.sleep(0.01)
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def result(self) -> tuple:
        """Weights; losses; which rollouts each process had."""
        manifest = json.loads((self.run_dir / "export/manifest.json").read_text())
        weights = {name: entry["hash"] for name, entry in manifest["tensors"].items()}
        losses, rollouts = [], []
        for folder in (self.run_dir, self.run_dir / "process-1"):
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            losses.append([(line["step"], line.get("update/loss"), line["rollouts/drawn"]) for line in lines])
            for path in sorted((folder / "rollouts").iterdir()):
                for line in map(json.loads, path.read_text().splitlines()):
                    rollouts.append((line["step"], line["group_id"], line["sample_index"], line["text"]))
        return weights, losses, rollouts


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_that_are_killed_and_resumed_end_like_two_that_were_not(
    root: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    whole = Pair(root, tmp_path / "whole", tmp_path / "cache")
    request.addfinalizer(whole.end)
    whole.start()
    whole.finish()
    killed = Pair(root, tmp_path / "killed", tmp_path / "cache")
    request.addfinalizer(killed.end)
    for file in ("rollouts/step-000001.jsonl", "process-1/journal/batch-000003.json"):
        killed.start()
        killed.kill_after(file)
    killed.start()
    killed.finish()
    assert killed.result() == whole.result()
    assert "resumed after step" in killed.logs()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_ends_the_run_with_one_line_and_more_room_lets_it_go_on(root: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=34m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk of its own size can be mounted here")
    environment = small_run.environment(tmp_path / "cache")

    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/train.py", *arguments]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)

    try:
        full = train(f"--run-dir={disk}/run", *SMALL, "--checkpoint.every-steps=1", "--num-steps=4")
        assert full.returncode == 2, full.stdout + full.stderr
        assert "Traceback" not in full.stderr and "No space left" in full.stderr and "--resume" in full.stderr
        assert len([line for line in full.stderr.splitlines() if line.startswith("error:")]) == 1, full.stderr
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        done = train("--resume", f"{disk}/run")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [json.loads(line) for line in (disk / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    finally:
        subprocess.run(["umount", str(disk)], check=False)
