"""A disk that is full: one line, and more room lets the run go on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder

SMALL = [*small_run.ARGUMENTS, "--checkpoint.every-steps=2"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_ends_the_run_with_one_line_and_more_room_lets_it_go_on(root: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=34m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk of its own size can be mounted here")
    environment = small_run.environment()

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
        lines = [json.loads(line) for line in RunFolder(path=disk / "run").metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    finally:
        subprocess.run(["umount", str(disk)], check=False)
