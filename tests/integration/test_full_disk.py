"""A disk that is full: one line, and more room lets the run go on."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import small_run
from sessions import Launchers

from nouscoder_jax.run_folder import RunFolder

SMALL = [*small_run.ARGUMENTS, "--checkpoint.every-steps=2"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_disk_ends_the_run_with_one_line_and_more_room_lets_it_go_on(launchers: Launchers, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=34m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk of its own size can be mounted here")
    try:
        code, told = launchers.run(
            "train.py", f"--run-dir={disk}/run", *SMALL, "--checkpoint.every-steps=1", "--num-steps=4"
        )
        assert code == 2, told
        assert "Traceback" not in told and "No space left" in told and "--resume" in told
        assert len([line for line in told.splitlines() if line.startswith("error:")]) == 1, told
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        code, told = launchers.run("train.py", "--resume", f"{disk}/run")
        assert code == 0, told
        lines = [json.loads(line) for line in RunFolder(path=disk / "run").metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    finally:
        subprocess.run(["umount", str(disk)], check=False)
