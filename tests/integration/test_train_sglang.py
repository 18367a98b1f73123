"""The tiny experiment through a real SGLang server on the CPU: on-policy, ahead of training, killed and resumed."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import small_run
from sessions import Launchers, Session

from nouscoder_jax.run_folder import RunFolder

PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]
SMALL = [
    *small_run.SIZES,
    "--rollout.engine=sglang",
    "--rollout.groups-per-step=4",
    "--rollout.group-size=4",
    "--evaluation.samples-per-problem=1",
    "--checkpoint.every-steps=1",
    "--verifier.backend=local",
    "--loss.max-drift=1e-3",
    f"--server.python={PYTHON}",
]


class Server(NamedTuple):
    url: str
    process: Session


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(launchers: Launchers, run_dir: Path, *arguments: str) -> list[dict]:
    """Runs to the end and returns the metrics."""
    log = run_dir.with_suffix(".log")
    code = launchers.start("train.py", *arguments, output=log).wait(timeout=500)
    assert code == 0, log.read_text()[-3000:]
    return metrics_of(run_dir)


def metrics_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in RunFolder(path=run_dir).metrics.read_text().splitlines()]


def wait_for_steps(trainer: Session, run_dir: Path, steps: int, *, log: Path) -> None:
    deadline = time.monotonic() + 300
    while not RunFolder(path=run_dir).metrics.exists() or len(metrics_of(run_dir)) < steps + 1:
        assert trainer.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(launchers, tmp_path_factory):
    """Address of a server of the tiny policy, started by scripts/serve.py."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    log = folder / "log"
    arguments = [f"--server.port={port}", f"--server.python={PYTHON}", f"--log-dir={folder}"]
    serving = launchers.start("serve.py", "--config", "configs/tiny.py", *arguments, output=log)
    try:
        deadline = time.monotonic() + 300
        while "ready; train with" not in log.read_text():
            assert serving.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield Server(url=f"http://127.0.0.1:{port}", process=serving)
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(timeout=60)


def test_three_steps_with_a_server_of_its_own_agree_with_the_trainer_at_every_step(launchers, tmp_path):
    run_dir = tmp_path / "run"
    port = free_port()
    lines = train(
        launchers,
        run_dir,
        "--config=configs/tiny.py",
        f"--run-dir={run_dir}",
        "--num-steps=3",
        f"--server.port={port}",
        f"--checkpoint.weights-dir={tmp_path / 'shared'}",
        *SMALL,
    )
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["update/on_policy_drift_max"] < 1e-3 for line in lines[1:] if "update/loss" in line)
    assert any("update/loss" in line for line in lines)
    assert all(line["staleness/batches_max"] == 0 for line in lines[1:] if "update/loss" in line)
    assert (RunFolder(path=run_dir).export / "manifest.json").is_file()
    assert list((tmp_path / "shared/run/weights").glob("*/manifest.json"))  # where servers of other machines read them
    assert not RunFolder(path=run_dir).weights.exists()
    with pytest.raises(httpx.HTTPError):  # the run's own server went with it
        httpx.get(f"http://127.0.0.1:{port}/model_info", timeout=5)


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(process):
                found.append(int(stat.parent.name))
    return found


def test_ahead_of_training_and_over_a_killed_server_no_token_is_too_old_and_the_drift_on_policy_stays(
    launchers, server, tmp_path
):
    run_dir, log = tmp_path / "run", tmp_path / "run.log"
    arguments = ["--rollout.max-staleness=1", "--rollout.on-new-weights=retract", f"--rollout.urls={server.url}"]
    arguments += ["--num-steps=8", f"--run-dir={run_dir}", "--rollout.outage-limit-s=300"]
    trainer = launchers.start("train.py", "--config=configs/tiny.py", *SMALL, *arguments, output=log)
    wait_for_steps(trainer, run_dir, 1, log=log)
    (keeper,) = children(server.process.pid)
    (first,) = children(keeper)
    os.kill(first, signal.SIGKILL)  # scripts/serve.py starts it again, with the weights that it had first
    assert trainer.wait(timeout=500) == 0, log.read_text()[-3000:]
    lines = metrics_of(run_dir)
    assert [line["step"] for line in lines] == list(range(9))
    assert f"{server.url} is lost" in log.read_text() and "is back after" in log.read_text()
    # Which groups are filtered differs by processor, and with them what an update takes from the batch before.
    assert max(line.get("staleness/batches_max", 0) for line in lines[1:]) <= 1
    assert max(line.get("staleness/versions_max", 0) for line in lines[1:]) <= 2
    assert any(line["rollouts/in_flight"] > 0 for line in lines[1:])
    probed = [line["probe/drift_max"] for line in lines if "probe/drift_max" in line]
    assert len(probed) >= 2 and max(probed) < 1e-3  # of every version, whatever is trained on
    same = [line["update/on_policy_drift_max"] for line in lines[1:] if line.get("update/on_policy_share")]
    assert all(drift < 1e-3 for drift in same)
    for line in lines[1:]:
        settled = line["rollouts/trained"] + line["rollouts/filtered"] + line["rollouts/quarantined"]
        assert line["rollouts/drawn"] == settled + line["rollouts/in_flight"]


def test_a_killed_trainer_resumes_with_a_server_that_holds_other_weights_by_now(root, launchers, server, tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "first.log"
    arguments = [f"--rollout.urls={server.url}", "--num-steps=3", f"--run-dir={run_dir}"]
    trainer = launchers.start("train.py", "--config=configs/tiny.py", *SMALL, *arguments, output=log)
    wait_for_steps(trainer, run_dir, 1, log=log)
    trainer.kill()
    trainer.wait()
    base = {"model_path": str(root / "configs/tiny/policy"), "weight_version": "stranger", "abort_all_requests": True}
    # A flush of the cache is refused where a request of the killed trainer still runs this very moment.
    stranger = httpx.post(f"{server.url}/update_weights_from_disk", json=base | {"flush_cache": False}, timeout=120)
    assert stranger.status_code == 200, stranger.text
    lines = train(launchers, run_dir, "--resume", str(run_dir))
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["update/on_policy_drift_max"] < 1e-3 for line in lines[1:] if "update/loss" in line)


def test_prompts_that_are_too_long_are_left_out_before_they_are_sent_and_counted(launchers, server, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [f"--rollout.urls={server.url}", "--num-steps=1", f"--run-dir={run_dir}", "--data.max-prompt-tokens=45"]
    train(launchers, run_dir, "--config=configs/tiny.py", *SMALL, *arguments)
    left_out = json.loads(RunFolder(path=run_dir).summary.read_text())["training_problems_left_out"]
    assert 0 < left_out < 384
    assert f"training problems: {384 - left_out}, {left_out} left out" in run_dir.with_suffix(".log").read_text()


def test_servers_that_never_come_back_end_the_run_with_one_line_and_the_finished_steps_kept(
    launchers, server, tmp_path
):
    """The last test of this file: it ends the server."""
    run_dir, log = tmp_path / "run", tmp_path / "run.log"
    arguments = [f"--rollout.urls={server.url}", "--num-steps=50", f"--run-dir={run_dir}", "--rollout.outage-limit-s=5"]
    arguments += ["--checkpoint.every-steps=50"]
    trainer = launchers.start("train.py", "--config=configs/tiny.py", *SMALL, *arguments, output=log)
    wait_for_steps(trainer, run_dir, 1, log=log)
    server.process.kill()
    assert trainer.wait(timeout=120) == 1, log.read_text()[-3000:]
    last = log.read_text().splitlines()[-1]
    assert last.startswith("error: the engine failed") and server.url in last
    assert "Traceback" not in log.read_text()
    steps = [line["step"] for line in metrics_of(run_dir)]
    assert steps == list(range(len(steps)))
    folder = RunFolder(path=run_dir)
    newest = max(int(path.name) for path in folder.checkpoints.iterdir())
    # Between two steps there are no weights to save: the journal has the batches from which a resumed run makes them.
    journal = {path.name for path in folder.journal.iterdir()}
    assert {f"batch-{step:06d}.json" for step in range(newest + 1, len(steps))} <= journal
