"""A run that starts from a converted folder instead of a Hugging Face directory."""

import json

import pytest
import small_run

from nouscoder_jax.model.converted import is_converted
from nouscoder_jax.run_folder import RunFolder

SMALL = [*small_run.ARGUMENTS, "--num-steps=1"]


@pytest.mark.slow
def test_training_from_a_converted_folder_is_training_from_its_source(root, launchers, tmp_path):

    def command(*arguments):
        code, told = launchers.run(*map(str, arguments))
        assert code == 0, told

    policy = root / "configs/tiny/policy"
    command("convert.py", "from-hf", policy, "--out", tmp_path / "ours")
    assert is_converted(tmp_path / "ours")
    weights = []
    for name, path in (("theirs", policy), ("ours", tmp_path / "ours")):
        arguments = [f"--run-dir={tmp_path / 'runs' / name}", f"--model.path={path}", *SMALL]
        command("train.py", "--config", "configs/tiny.py", *arguments)
        assert json.loads(RunFolder(path=tmp_path / "runs" / name).summary.read_text())["steps"] == 1
        weights.append((RunFolder(path=tmp_path / "runs" / name).export / "model.safetensors").read_bytes())
        assert (RunFolder(path=tmp_path / "runs" / name).export / "tokenizer.json").read_bytes() == (
            policy / "tokenizer.json"
        ).read_bytes()
    assert weights[0] == weights[1]
