"""The tiny experiment through a real SGLang server, at length: agreement does not wear off, and it learns the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder

PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"),
    pytest.mark.soak,
    pytest.mark.timeout(3600),
]


def train(root: Path, run_dir: Path, *arguments: str) -> list[dict]:
    """The metrics of a run as a user makes it."""
    command = [sys.executable, "scripts/train.py", "--config=configs/tiny.py", f"--run-dir={run_dir}", *arguments]
    done = subprocess.run(command, cwd=root, env=small_run.user_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in RunFolder(path=run_dir).metrics.read_text().splitlines()]


def through_sglang(port: int) -> list[str]:
    return ["--rollout.engine=sglang", f"--server.python={PYTHON}", f"--server.port={port}"]


def test_at_learning_rate_0_the_drift_stays_where_it_was_for_50_steps(root: Path, tmp_path: Path, record_property):
    arguments = ["--num-steps=50", "--rollout.groups-per-step=4", "--rollout.group-size=4", "--loss.max-drift=1e-3"]
    lines = train(
        root, tmp_path / "run", *small_run.SIZES, *arguments, *through_sglang(31811), "--optimizer.learning-rate=0"
    )
    for name in ("probe/drift_max", "update/drift_max"):
        drifts = np.array([line[name] for line in lines if name in line])
        record_property(name, [float(drifts[:10].max()), float(drifts[-10:].max()), float(drifts.max())])
        assert len(drifts) >= 40 and drifts.max() < 1e-4
        assert drifts[-10:].max() < 10 * drifts[:10].max() + 1e-6


def test_through_either_engine_the_run_learns_the_same_within_5_points(root: Path, tmp_path: Path, record_property):
    reached = {}
    for name, arguments in {"embedded": [], "sglang": through_sglang(31812)}.items():
        train(root, tmp_path / name, *arguments)
        reached[name] = json.loads(RunFolder(path=tmp_path / name).summary.read_text())["pass_at_1_after"]
        record_property(name, reached[name])
    assert abs(reached["embedded"] - reached["sglang"]) <= 0.05 and min(reached.values()) >= 0.55, reached
