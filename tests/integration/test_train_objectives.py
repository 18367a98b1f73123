"""What an objective's settings do to a whole run on the command line: real engine, real sandbox."""

import json
from pathlib import Path

import pytest
import small_run
from sessions import Launchers

from nouscoder_jax.run_folder import RunFolder

pytestmark = pytest.mark.slow

SMALL = [
    *small_run.SIZES,
    "--num-steps=1",
    "--rollout.groups-per-step=4",
    "--rollout.group-size=4",
    "--rollout.num-slots=16",
    "--rollout.max-completion-tokens=96",
    "--evaluation.samples-per-problem=1",
    "--verifier.backend=local",
]


def last_metrics(run_dir: Path) -> dict[str, float]:
    return json.loads(RunFolder(path=run_dir).metrics.read_text().splitlines()[-1])


def error_of(told: str) -> str:
    errors = [line for line in told.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in told, told
    return errors[0]


def test_the_probe_stops_a_run_before_its_first_token_and_a_wider_bound_goes_on(launchers: Launchers, tmp_path: Path):
    """Engine and trainer agree to 1e-6 here: a bound below that is what a broken engine is to a sensible bound."""
    run_dir = tmp_path / "run"
    code, told = launchers.run("train.py", f"--run-dir={run_dir}", *SMALL, "--loss.max-drift=1e-8")
    error = error_of(told)
    assert code == 1 and "too much drift: the engine, embedded" in error and "policy version 0" in error
    assert not RunFolder(path=run_dir).summary.exists() and not list(RunFolder(path=run_dir).rollouts.iterdir())
    config = json.loads(RunFolder(path=run_dir).config.read_text())
    config["loss"]["max_drift"] = 0.05
    RunFolder(path=run_dir).config.write_text(json.dumps(config))
    code, told = launchers.run("train.py", "--resume", str(run_dir))
    assert code == 0, told
    assert last_metrics(run_dir)["step"] == 1
    assert last_metrics(run_dir)["update/on_policy_drift_max"] < 1e-4


def test_a_batch_that_stays_short_stops_the_run_where_the_config_says_so(launchers: Launchers, tmp_path: Path):
    """96 groups of the same 4 completions each cannot all be mixed."""
    code, told = launchers.run(
        "train.py", f"--run-dir={tmp_path / 'run'}", *SMALL, "--rollout.groups-per-step=32",
        "--experience.short-batch=stop", "--experience.max-draws-per-batch=1",
    )  # fmt: skip
    error = error_of(told)
    assert code == 2 and "step 1: 32 groups drawn" in error and "of the 32 that a batch needs" in error
    assert [path.name for path in RunFolder(path=tmp_path / "run").rollouts.iterdir()] == ["step-000001.jsonl"]


@pytest.mark.parametrize(
    "correction",
    [
        ["--loss.correction=truncated", "--loss.max-ratio=2"],
        ["--loss.correction=icepop", "--loss.min-ratio=0.5", "--loss.max-ratio=5"],
        ["--loss.correction=sequence_rejection", "--loss.min-ratio=0.9", "--loss.max-ratio=1.1"],
        ["--loss.correction=decoupled"],
    ],
    ids=lambda arguments: arguments[0].partition("=")[2],
)
def test_every_correction_trains_and_old_logprobs_are_those_before_the_first_update(
    launchers: Launchers, tmp_path: Path, correction: list[str]
):
    run_dir = tmp_path / "run"
    advantage = "--experience.advantage=group_mean_batch_std"
    code, told = launchers.run(
        "train.py", f"--run-dir={run_dir}", *SMALL, "--loss.old-logprobs=recomputed", advantage, *correction
    )
    assert code == 0, told
    metrics = last_metrics(run_dir)
    assert metrics["update/importance_weight_mean"] == pytest.approx(1.0, abs=1e-4)  # the weights are the same
    assert metrics["update/rejected_share"] == 0 and metrics["update/on_policy_share"] == 1
    # The second of the batch's two updates is compared with the weights before the first.
    assert metrics["update/approx_kl"] > 1e-8
