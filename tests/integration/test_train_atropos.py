"""Both ends of Atropos through its real server: the tiny experiment trained on groups of an environment of ours."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_run
from atropos_server import AtroposProcess
from sessions import Launchers, Session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SMALL = [
    *small_run.ARGUMENTS,
    "--rollout.groups-per-step=4",
    "--rollout.max-staleness=1",
    "--rollout.outage-limit-s=60",
    "--checkpoint.every-steps=1",
]


@pytest.fixture
def server() -> Iterator[AtroposProcess]:
    pytest.importorskip("atroposlib.api.server", reason="atroposlib is not installed (make .venv/.test does it)")
    running = AtroposProcess()
    yield running
    running.kill()


def trainer(launchers: Launchers, server: AtroposProcess, run_dir: Path) -> Session:
    pull = ["--rollout.source=atropos", f"--rollout.source-url={server.url}"]
    return launchers.start("train.py", "--config=configs/tiny.py", *SMALL, *pull, f"--run-dir={run_dir}")


def environment(launchers: Launchers, server: AtroposProcess, out: Path) -> Session:
    return launchers.start(
        "atropos.py", "--config=configs/tiny.py", *SMALL, "--seed=5", f"--url={server.url}", f"--out={out}"
    )


def wait_for(session: Session, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in session.told():
        assert session.poll() is None and time.monotonic() < deadline, session.told()[-3000:]
        time.sleep(0.05)


def test_three_steps_with_a_killed_server_and_a_killed_trainer(launchers, server, tmp_path):
    """The server dies and is started again, then the trainer is killed with kill -9 and resumed: three steps are
    trained, every rollout is somewhere, and the environment goes on through all of it."""
    run_dir = tmp_path / "run"
    giving = environment(launchers, server, tmp_path / "environment")
    training = trainer(launchers, server, run_dir)
    wait_for(training, "step 1/3")
    server.kill()
    server.start()
    wait_for(training, "step 2/3")
    training.kill()
    training.wait()
    resumed = launchers.start("train.py", f"--resume={run_dir}")
    assert resumed.wait() == 0, resumed.told()[-3000:]
    giving.send_signal(signal.SIGINT)
    assert giving.wait() == 0, giving.told()[-3000:]

    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    last = lines[-1]
    filtered = sum(value for name, value in last.items() if name.startswith("rollouts/filtered/"))
    assert last["rollouts/trained"] > 0
    assert last["rollouts/drawn"] == (
        last["rollouts/trained"] + filtered + last["rollouts/quarantined"] + last["rollouts/in_flight"]
    )
    assert last["policy_version"] == 6 and all(line["groups/used"] == 4 for line in lines[1:])
    assert max(line["staleness/batches_max"] for line in lines[1:]) <= 1
    # The environment had the trainer's weights, and trainer and engine agree about its tokens.
    assert lines[1]["update/on_policy_share"] > 0 and lines[1]["update/on_policy_drift_max"] < 1e-3
    rollouts = [
        json.loads(line) for path in sorted((run_dir / "rollouts").iterdir()) for line in path.read_text().splitlines()
    ]
    assert {line["problem_id"].split("/")[0] for line in rollouts} == {"atropos"}
    assert max(line["policy_version"] for line in rollouts) >= 2
    told = giving.told()
    assert told.count("a trainer of 3 batches") == 2 and "groups drawn" in told


def test_an_environment_without_a_server_says_so(launchers, tmp_path):
    code, told = launchers.run(
        "atropos.py", "--config=configs/tiny.py", *small_run.ARGUMENTS, f"--out={tmp_path}",
        "--url=http://127.0.0.1:9", "--rollout.outage-limit-s=0.5",
    )  # fmt: skip
    assert code == 1 and "no Atropos server at http://127.0.0.1:9" in told and "Traceback" not in told


def test_an_environment_needs_an_address(launchers):
    code, told = launchers.run("atropos.py", "--config=configs/tiny.py")
    assert code == 2 and "--url http://HOST:8000" in told and "Traceback" not in told
