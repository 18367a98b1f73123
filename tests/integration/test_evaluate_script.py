"""evaluate.py as a user starts it: killed and started again, two results compared, and what is told of mistakes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run

ROOT = Path(__file__).parents[2]
POLICY = str(ROOT / "configs/tiny/policy")
SMALL = [
    f"--problems={small_run.HERE / 'held_out_8.jsonl'}",
    f"--model={POLICY}",
    "--samples=3",
    "--max-tokens=96",
    "--data.max-prompt-tokens=128",
    "--rollout.num-slots=2",
    "--rollout.decode-chunk-tokens=4",
    "--verifier.backend=local",
    "--graders=strict,livecodebench",
]


@pytest.fixture(scope="module")
def whole(launchers, tmp_path_factory):
    """An evaluation that was never stopped."""
    folder = tmp_path_factory.mktemp("evaluations") / "whole"
    code, told = launchers.run("evaluate.py", *SMALL, f"--out={folder}")
    assert code == 0, told
    result = json.loads((folder / "result.json").read_text())
    assert result["livecodebench"]["pass_at_1"]["num_problems"] == 8 and "public harness" in told
    outcomes = result["outcomes"]
    assert sum(count > 0 for count in outcomes.values()) > 1, outcomes
    return folder


def test_killed_and_started_again_is_never_stopped(launchers, whole, tmp_path):
    out = tmp_path / "out"
    samples = out / "samples.jsonl"
    for lines in (1, 7, 15):
        session = launchers.start("evaluate.py", *SMALL, f"--out={out}")
        while not samples.exists() or samples.read_bytes().count(b"\n") < lines:
            assert session.poll() is None, session.told()
            time.sleep(0.01)
        session.kill()
        session.wait()
        assert not (out / "result.json").exists()
    with samples.open("ab") as file:
        file.write(b'{"problem_id": "tiny/')
    code, told = launchers.run("evaluate.py", *SMALL, f"--out={out}")
    assert code == 0 and "are kept" in told, told
    assert (out / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert samples.read_bytes().count(b"\n") == 24


def test_another_evaluation_does_not_go_on_in_the_folder(launchers, whole):
    code, told = launchers.run("evaluate.py", *SMALL, f"--out={whole}", "--evaluation.temperature=0.5")
    assert code == 2 and "evaluation.temperature was 1.0, is 0.5" in told, told


def test_two_results_are_compared_without_a_model(launchers, whole, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    result = json.loads((whole / "result.json").read_text())
    for problem in result["problems"][:2]:
        for sample in problem["samples"]:
            sample["passed"] = not sample["passed"]
    (other / "result.json").write_text(json.dumps(result))
    code, told = launchers.run("evaluate.py", "--compare", str(other), str(whole))
    assert code == 0 and f"{other} against {whole}: " in told and "8 problems" in told and "p = " in told
    code, told = launchers.run("evaluate.py", "--compare", str(whole), str(whole), str(whole))
    assert code == 2 and "--compare got 3 folders; give one or two" in told
    code, told = launchers.run("evaluate.py", "--compare", str(whole), str(tmp_path / "none"))
    assert code == 2 and "cannot be read" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model=/nowhere/at/all"], "is neither a folder nor a hub id"),
        (["--out=/nowhere/at/all"], "--out got /nowhere/at/all"),
        (["--table=/nowhere/at/all.md"], "--table got /nowhere/at/all.md"),
        (["--tokenizer=/nowhere"], "--tokenizer got /nowhere"),
        (["--model=http://127.0.0.1:9"], "no SGLang server answers at http://127.0.0.1:9"),
        (["--contexts=97"], "--contexts got 97"),
        (["--graders=livecodebench"], "--graders got 'livecodebench'; expected strict or"),
        (["--max-tokens=0"], "evaluation.max_completion_tokens is 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(launchers, arguments, expected):
    code, told = launchers.run("evaluate.py", *SMALL, *arguments)
    assert code == 2 and expected in told and "Traceback" not in told, told
    assert told.count("error:") == 1


def test_help_has_the_options_and_the_fields(launchers):
    code, told = launchers.run("evaluate.py", "--help")
    assert code == 0
    for option in ("--compare", "--contexts", "--out", "--tokenizer", "--model.yarn-factor", "--rollout.engine"):
        assert option in told


def test_a_reader_that_is_gone_ends_it_quietly(whole):
    command = [sys.executable, "scripts/evaluate.py", "--compare", str(whole), str(whole)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=small_run.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == 141
