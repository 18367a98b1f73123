"""scripts/verify.py: judged by a config and its overrides, the short options included."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs/tiny.py"
PROGRAM = "print(sum(map(int, input().split())))"
PROBLEM = {
    "id": "sum", "statement": "Read two numbers. Print their sum.", "io": "stdin", "fn_name": None, "checker": "tokens",
    "tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "4 4\n", "output": "8\n"}],
    "solutions": [
        {"language": "python3", "label": "accepted", "code": PROGRAM},
        {"language": "python3", "label": "wrong_answer", "code": "print(5)"},
    ],
}  # fmt: skip


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n")
    return str(path)


@pytest.fixture
def judged_with(monkeypatch, problems, tmp_path):
    """The judge's config that the script arrives at; nothing is judged."""
    spec = importlib.util.spec_from_file_location("verify_script", ROOT / "scripts/verify.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "judge_file", lambda pairs, config, **how: config)

    def config_of(*arguments):
        out = str(tmp_path / "verdicts.jsonl")
        monkeypatch.setattr(sys, "argv", ["verify.py", "--problems", problems, "--out", out, *arguments])
        return script.main()

    return config_of


def test_without_a_config_the_limits_are_those_of_the_14b_runs_two_programs_at_a_time(judged_with):
    dapo = load_config_file(ROOT / "configs/dapo.py").verifier
    assert judged_with() == dataclasses.replace(dapo, backend="auto", num_workers=2)


def test_a_config_counts_as_it_is(judged_with):
    assert judged_with("--config", str(TINY)) == load_config_file(TINY).verifier
    assert judged_with(f"--config={TINY}") == load_config_file(TINY).verifier


@pytest.mark.parametrize("config", [[], ["--config", str(TINY)]])
def test_short_options_are_the_configs_fields(judged_with, config):
    short = ["--backend", "local", "--workers", "7", "--docker-hosts", "unix:///a", "unix:///b", "--image", "mine:1"]
    short += ["--runtime", "crun", "--rollouts-per-sandbox", "3", "--memory-mib=512", "--wall-factor", "2.5"]
    judged = judged_with(*config, *short)
    assert (judged.backend, judged.num_workers, judged.docker_hosts) == ("local", 7, ("unix:///a", "unix:///b"))
    assert (judged.image, judged.runtime, judged.rollouts_per_sandbox) == ("mine:1", "crun", 3)
    assert (judged.memory_limit_mib, judged.wall_factor) == (512, 2.5)


def test_every_field_can_be_overridden(judged_with):
    assert judged_with("--verifier.default-time-limit-s", "4", "--verifier.max-retries=9").max_retries == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "num_workers is 0"),
        (["--memory", "5"], "unknown option --memory"),
        (["--backend", "podman"], "it takes one of auto, docker, local"),
        (["--rejudge", "nowhere", "--config", str(TINY)], "drop --config"),
        (["--rejudge", "nowhere"], "give --rejudge the folder"),
    ],
)
def test_a_mistake_is_one_clear_line(judged_with, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        judged_with(*arguments)
    assert "\n" not in str(error.value)


def test_labelled_solutions_are_judged_and_agree(problems, tmp_path):
    out = tmp_path / "verdicts.jsonl"
    done = subprocess.run(
        [sys.executable, "scripts/verify.py", "--problems", problems, "--out", out, "--backend", "local"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 2 labels agree" in done.stdout
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [verdict["outcome"] for verdict in verdicts] == ["accepted", "wrong_answer"]


def test_a_label_that_the_judge_does_not_share_is_exit_code_1(problems, tmp_path):
    solutions = tmp_path / "mine.jsonl"
    wrong = {"problem_id": "sum", "code": "print(5)", "label": "accepted"}
    right = {"problem_id": "sum", "code": "print(sum(map(int, input().split())))", "label": "wrong_answer"}
    solutions.write_text(f"{json.dumps(wrong)}\n{json.dumps(right)}\n")
    done = subprocess.run(
        [sys.executable, "scripts/verify.py", "--problems", problems, "--solutions", solutions,
         "--out", tmp_path / "out.jsonl", "--config", TINY, "--backend", "local"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "label accepted, verdict wrong_answer (" in done.stdout
    assert "label wrong_answer, verdict accepted\n" in done.stdout  # without empty brackets


def test_explain_prints_how_a_problem_is_judged(monkeypatch, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("verify_script", ROOT / "scripts/verify.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = tmp_path / "problems.jsonl"
    statement = "Print the mean. Answers within 10^-5 of the actual answer are accepted."
    path.write_text(json.dumps(PROBLEM | {"statement": statement}) + "\n")
    monkeypatch.setattr(sys, "argv", ["verify.py", "--problems", str(path), "--explain", "sum"])
    assert script.main() == 0
    told = capsys.readouterr().out
    assert "comparison: float, absolute 1e-05 or relative 1e-05" in told
    assert "derived: tolerance 1e-05" in told and "Answers within 10^-5 of the actual answer" in told
    monkeypatch.setattr(sys, "argv", ["verify.py", "--problems", str(path), "--explain", "other"])
    with pytest.raises(UserError, match="got 'other', which none of the 1 problems has"):
        script.main()
