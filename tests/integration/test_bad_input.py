"""What a user may get wrong, each with one clear line and exit code 2."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from small import make_config

from nouscoder_jax.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """train(arguments) -> what scripts/train.py did with them, run in this process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["scripts/train.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("scripts/train.py", run_name="__main__")
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, said.out, said.err)

    return run


def broken_file(folder: Path) -> Path:
    path = folder / "broken.jsonl"
    path.write_text('{"id": "a", "statement": "x"\n')
    return path


CASES = [
    ("an unknown field", lambda tmp: ["--optimizer.learning-rat=1"], "--optimizer.learning-rate"),
    ("a value of the wrong type", lambda tmp: ["--num-steps=many"], "a whole number"),
    ("a config that contradicts itself", lambda tmp: ["--experience.row-tokens=100"], "experience.row_tokens is 100"),
    ("a config file that is not there", lambda tmp: ["--config", "configs/none.py"], "does not exist"),
    ("48 GPUs that are not there", lambda tmp: ["--config", "configs/dapo.py"], "needs 48 GPUs"),
    ("a problem file with a broken line", lambda tmp: [f"--data.problems={broken_file(tmp)}"], "line 1"),
    ("a problem file that is not there", lambda tmp: ["--data.problems=none.jsonl"], "none.jsonl"),
    ("a model that is not there", lambda tmp: [f"--model.path={tmp}"], "model.path"),
    ("a resumed folder without a run", lambda tmp: ["--resume", str(tmp)], "holds no run"),
    ("a run folder below a file", lambda tmp: [f"--run-dir={broken_file(tmp)}/run"], "cannot write the run folder"),
    ("an SGLang server that is not there", lambda tmp: ["--rollout.engine=sglang", "--rollout.urls", "http://127.0.0.1:9"],
     "127.0.0.1:9"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "expected"), CASES, ids=[case[0] for case in CASES])
def test_bad_input_is_one_clear_line_and_exit_code_2(name, arguments, expected, train, tmp_path: Path):
    done = train(f"--run-dir={tmp_path / 'run'}", *arguments(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (tmp_path / "run").exists()  # nothing stands in the way of a second try
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and expected in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_on_the_command_line_ends_the_process_with_2_and_one_line(root: Path):
    command = [sys.executable, "scripts/train.py", "--optimizer.learning-rat=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_a_closed_pipe_ends_a_script_quietly(script: str):
    """`python scripts/X.py --help | head -0`: 141, as for a program that SIGPIPE ends, or argparse's 0."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, f"scripts/{script}", "--help"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT, check=False)
    os.close(theirs)
    assert done.returncode in (0, 141) and done.stderr == ""


def test_docker_that_was_asked_for_and_does_not_answer_is_named(train, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    done = train(f"--run-dir={tmp_path / 'run'}", "--verifier.backend=docker")
    assert done.returncode == 2 and "none.sock" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_named(train, root: Path, tmp_path: Path):

    RunFolder(path=tmp_path).config.write_text(make_config().to_json())
    RunFolder(path=tmp_path).metrics.write_text(json.dumps({"step": 0}) + "\n")
    (RunFolder(path=tmp_path).checkpoints / "4" / "state").mkdir(parents=True)
    (RunFolder(path=tmp_path).checkpoints / "4" / "state" / "manifest.ocdbt").write_bytes(b"\x00")
    done = train("--resume", str(tmp_path))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "checkpoint" in done.stderr and "Traceback" not in done.stderr
