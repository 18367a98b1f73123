"""A run that starts from a converted folder instead of a Hugging Face directory."""

import json
import subprocess
import sys

import pytest
import small_run

from nouscoder_jax.model.converted import is_converted
from nouscoder_jax.run_folder import RunFolder

SMALL = [*small_run.ARGUMENTS, "--num-steps=1"]


@pytest.mark.slow
def test_training_from_a_converted_folder_is_training_from_its_source(root, tmp_path):
    environment = small_run.environment()

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr

    policy = root / "configs/tiny/policy"
    command("scripts/convert.py", "from-hf", policy, "--out", tmp_path / "ours")
    assert is_converted(tmp_path / "ours")
    weights = []
    for name, path in (("theirs", policy), ("ours", tmp_path / "ours")):
        arguments = [f"--run-dir={tmp_path / 'runs' / name}", f"--model.path={path}", *SMALL]
        command("scripts/train.py", "--config", "configs/tiny.py", *arguments)
        assert json.loads(RunFolder(path=tmp_path / "runs" / name).summary.read_text())["steps"] == 1
        weights.append((RunFolder(path=tmp_path / "runs" / name).export / "model.safetensors").read_bytes())
        assert (RunFolder(path=tmp_path / "runs" / name).export / "tokenizer.json").read_bytes() == (
            policy / "tokenizer.json"
        ).read_bytes()
    assert weights[0] == weights[1]
