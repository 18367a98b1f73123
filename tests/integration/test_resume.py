"""A run that goes on from an earlier step, or with other settings: nothing is lost that was not asked for."""

import json
from pathlib import Path

import pytest
import small_run
from sessions import Launchers

from nouscoder_jax.run_folder import RunFolder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_back_to_a_step_and_ends_as_it_did_and_says_what_it_will_not_do(
    launchers: Launchers, tmp_path: Path
):
    run_dir = tmp_path / "run"

    def train(*arguments: str) -> tuple[int, str]:
        return launchers.run("train.py", *arguments)

    def metrics() -> list[dict[str, float]]:
        lines = [json.loads(line) for line in RunFolder(path=run_dir).metrics.read_text().splitlines()]
        return [{name: value for name, value in line.items() if name.startswith(("update/", "step"))} for line in lines]

    kept = ["--checkpoint.every-steps=1", "--checkpoint.keep=9"]
    assert train(f"--run-dir={run_dir}", *small_run.ARGUMENTS, *kept)[0] == 0
    first = metrics()
    files = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    for arguments, told in (
        (("--seed=7", "--num-steps=4"), "would go on with changes: seed 0 -> 7"),
        (("--resume-step=9",), "no checkpoint of step 9"),
        (("--num-steps=2",), f"nothing to do: {run_dir} goes on after step 3, and num_steps is 2"),
    ):
        code, said = train("--resume", str(run_dir), *arguments)
        assert code == 2 and told in said and "Traceback" not in said
    for path, content in files.items():
        assert path.read_bytes() == content, path

    code, told = train("--resume", str(run_dir))
    assert code == 0 and "nothing to train: all 3 steps are done" in told
    code, told = train("--resume", str(run_dir), "--resume-step=1")
    assert code == 0, told
    starts = RunFolder(path=run_dir).configs.read_text().splitlines()
    assert [json.loads(start)["after_step"] for start in starts] == [0, 3, 1]
    assert metrics() == first and "the checkpoint of step 3 is now" in told
    assert {"2", "2.aside", "3", "3.aside"} <= {path.name for path in RunFolder(path=run_dir).checkpoints.iterdir()}
