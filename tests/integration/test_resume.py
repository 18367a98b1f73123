"""A run that goes on from an earlier step, or with other settings: nothing is lost that was not asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_back_to_a_step_and_ends_as_it_did_and_says_what_it_will_not_do(root: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    environment = small_run.environment()

    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/train.py", *arguments]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)

    def metrics() -> list[dict[str, float]]:
        lines = [json.loads(line) for line in RunFolder(path=run_dir).metrics.read_text().splitlines()]
        return [{name: value for name, value in line.items() if name.startswith(("update/", "step"))} for line in lines]

    kept = ["--checkpoint.every-steps=1", "--checkpoint.keep=9"]
    assert train(f"--run-dir={run_dir}", *small_run.ARGUMENTS, *kept).returncode == 0
    first = metrics()
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    for arguments, told in (
        (("--seed=7", "--num-steps=4"), "would go on with changes: seed 0 -> 7"),
        (("--resume-step=9",), "no checkpoint of step 9"),
        (("--num-steps=2",), f"nothing to do: {run_dir} goes on after step 3, and num_steps is 2"),
    ):
        refused = train("--resume", str(run_dir), *arguments)
        assert refused.returncode == 2 and told in refused.stderr and "Traceback" not in refused.stderr
    for path, content in files.items():
        assert path.read_bytes() == content, path

    done = train("--resume", str(run_dir))
    assert done.returncode == 0 and "nothing to train: all 3 steps are done" in done.stdout
    again = train("--resume", str(run_dir), "--resume-step=1")
    assert again.returncode == 0, again.stderr
    starts = RunFolder(path=run_dir).configs.read_text().splitlines()
    assert [json.loads(start)["after_step"] for start in starts] == [0, 3, 1]
    assert metrics() == first and "the checkpoint of step 3 is now" in again.stdout
    assert {"2", "2.aside", "3", "3.aside"} <= {path.name for path in RunFolder(path=run_dir).checkpoints.iterdir()}
