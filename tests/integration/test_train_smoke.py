"""From `train` to `convert` on the command line, the embedded default made small: real engine, real sandbox."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_run

from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.loop import measured
from nouscoder_jax.run_folder import RunFolder

SMALL = ["--config", "configs/tiny.py", *small_run.ARGUMENTS, "--num-steps=2", "--checkpoint.every-steps=1"]


UMASK = 0o027


def command(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "scripts" / script, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env=small_run.environment(),
        cwd=root,
        umask=UMASK,
    )


@pytest.fixture(scope="module")
def run_dir(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    done = command(root, "train.py", *SMALL, f"--run-dir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder.parent / "told").write_text(done.stdout)
    return folder


def test_a_run_folder_holds_everything_that_the_readme_promises(root: Path, run_dir: Path):
    names = {path.name for path in run_dir.iterdir()}
    assert {
        "config.json", "metrics.jsonl", "rollouts", "checkpoints", "export", "summary.json", "pass_at_1.png",
        "tensorboard",
    } <= names  # fmt: skip
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {"pass_at_1_before", "pass_at_1_after", "steps", "seconds", "seed"} <= summary.keys()
    assert summary["steps"] == 2
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 1, 2]
    rollouts = [json.loads(x) for f in sorted((run_dir / "rollouts").iterdir()) for x in f.read_text().splitlines()]
    assert all({"program", "verdict", "reward"} <= line.keys() for line in rollouts)
    statements = {one.problem_id: one.statement for one in read_problems(root / "configs/tiny/train.jsonl")}
    assert all(statements[line["problem_id"]] in line["prompt"] for line in rollouts)
    assert (run_dir / "pass_at_1.png").read_bytes().startswith(b"\x89PNG")


def test_held_out_samples_are_kept_like_those_of_training(run_dir: Path):
    folder = RunFolder(path=run_dir)
    assert sorted(path.name for path in folder.held_out.iterdir()) == ["step-000000.jsonl", "step-000002.jsonl"]
    lines, trained = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (folder.held_out_of(2), folder.rollouts_of(2))
    )
    only_of_training = {"reward", "advantage", "drop_reason", "trained"}
    assert all(line.keys() == trained[0].keys() - only_of_training for line in lines)
    assert len({line["problem_id"] for line in lines}) == len(lines) == 8 and {line["step"] for line in lines} == {2}
    accepted = sum(line["verdict"]["outcome"] == "accepted" for line in lines)
    assert accepted / 8 == json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["held_out/pass_at_1"]


def test_what_a_run_measures_is_what_is_known_of_it_before_it_starts(root: Path, run_dir: Path):
    known = measured.metric_names(RunFolder(path=run_dir).read_config(option="--resume"))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    written = {name for line in lines for name in line}
    parts = ("update/", "outcomes/", "groups/", "rollouts/", "held_out/", "reward/")
    assert "reward/mean" in written and {name for name in written if name.startswith(parts)} <= known


def test_every_file_of_a_run_follows_the_umask(run_dir: Path):
    modes = {path: path.stat().st_mode & 0o777 for path in run_dir.rglob("*")}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~UMASK for path in modes}
    assert modes and modes == expected


def test_every_rollout_drawn_is_trained_filtered_or_quarantined(run_dir: Path):
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["rollouts/in_flight"] == 0
    assert last["rollouts/drawn"] == sum(last[f"rollouts/{x}"] for x in ("trained", "filtered", "quarantined"))
    lines = sum(len(f.read_text().splitlines()) for f in (run_dir / "rollouts").iterdir())
    assert lines == last["rollouts/drawn"]
    told = (run_dir.parent / "told").read_text()
    assert f"rollouts drawn: {lines:.0f}\n" in told
    classes = re.findall(
        r"^  (?:trained|quarantined|filtered/\S+) +(\d+)  [\d.]+ tokens on average$", told, re.MULTILINE
    )
    assert sum(map(int, classes)) == lines


def test_a_trained_run_is_judged_again_to_the_same_verdicts(root: Path, run_dir: Path):
    done = command(root, "verify.py", "--rejudge", str(run_dir), "--steps", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = len(RunFolder(path=run_dir).rollouts_of(1).read_text().splitlines())
    assert f"{judged} rollouts, " in done.stdout and "no verdict changed" in done.stdout


def test_a_finished_run_goes_on_with_more_steps(root: Path, run_dir: Path):
    done = command(root, "train.py", "--resume", str(run_dir), "--num-steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step 2" in done.stdout
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]


def test_a_second_run_in_the_same_folder_is_refused(root: Path, run_dir: Path):
    done = command(root, "train.py", *SMALL, f"--run-dir={run_dir}")
    assert done.returncode == 2
    assert "already holds a run" in done.stderr and "--resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_converted_checkpoint_gives_transformers_our_logits_and_reads_back_bit_for_bit(
    root: Path, run_dir: Path, tmp_path: Path
):
    torch = pytest.importorskip("torch", reason="parity with transformers needs torch")
    out = tmp_path / "hf"
    done = command(root, "convert.py", "to-hf", str(run_dir), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    import jax
    import jax.numpy as jnp
    import transformers

    from nouscoder_jax.model import qwen3
    from nouscoder_jax.model.weights import load_model

    _, ours = load_model(out)
    ours = jax.tree.map(jnp.asarray, ours)
    tokens = np.random.default_rng(0).integers(0, ours.architecture.vocab_size, (2, 40)).astype(np.int32)
    positions = jnp.broadcast_to(jnp.arange(40, dtype=jnp.int32)[None], tokens.shape)
    ones = jnp.ones_like(positions)
    hidden = qwen3.forward(
        ours, jnp.asarray(tokens), positions, ones, compute_dtype="float32", attention="reference", remat="none"
    )
    logits = np.asarray(qwen3.logits(hidden, qwen3.output_embedding(ours)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    assert np.abs(logits - expected).max() <= 1e-4
    _, exported = load_model(run_dir / "export")
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(exported), strict=True):
        assert np.array_equal(left, right)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("print(len(w))")["input_ids"]) == "print(len(w))"


def test_ctrl_c_ends_in_a_checkpoint_that_resume_takes_up(root: Path, tmp_path: Path):
    folder = tmp_path / "run"
    arguments = [*SMALL, f"--run-dir={folder}", "--num-steps=50", "--checkpoint.every-steps=50"]
    process = subprocess.Popen(
        [sys.executable, "scripts/train.py", *arguments],
        cwd=root, env=small_run.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "rollouts" / "step-000002.jsonl").exists():
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "interrupted: finishing the current update" in output and "--resume" in output
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["finished"] and summary["steps"] >= 1
    done = command(root, "train.py", "--resume", str(folder), f"--num-steps={summary['steps'] + 1}")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics == list(range(summary["steps"] + 2))
