import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from judge_rig import Rig, make_config, make_problem

from nouscoder_jax.types import JudgeError, Outcome
from nouscoder_jax.verifier.docker.host import _OPEN, DockerHost, is_orphan, start_time
from nouscoder_jax.verifier.verify import verify

SCRIPT = Path(__file__).parent / "docker_engine.sh"
PROBLEM = make_problem([("2 3\n", "5\n")])
PROGRAM = "import time\ntime.sleep(5)\nprint(sum(map(int, input().split())))"


@pytest.fixture
def own_docker_host(monkeypatch):
    """A Docker host that a test may kill; gone afterwards."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("a Docker host that may be killed needs root and dockerd (apt-get install docker.io)")
    folder = Path(tempfile.mkdtemp(prefix="judge-"))  # not tmp_path: a socket's path has 107 characters at most
    line = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("DOCKER_HOST", line.strip().partition("=")[2])
    yield folder
    subprocess.run([SCRIPT, "start", folder], capture_output=True, check=True)
    found = subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True, check=True).stdout.split()
    if found:
        subprocess.run(["docker", "rm", "-f", *found], capture_output=True, check=False)
    subprocess.run([SCRIPT, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def containers():
    """Containers of the Docker host; those that are being removed get a moment."""
    for _ in range(50):
        if not (found := _containers()):
            break
        time.sleep(0.1)
    return found


def _containers():
    return subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
def test_a_dead_docker_host_is_a_judge_error_and_after_a_restart_nothing_is_left(own_docker_host):
    rig = Rig("docker")

    async def run():
        judged = asyncio.ensure_future(
            verify(PROBLEM, PROGRAM, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True)
        )
        await asyncio.sleep(2.5)
        os.kill(int((own_docker_host / "docker.pid").read_text()), signal.SIGKILL)
        return await judged

    with pytest.raises(JudgeError, match="Docker host"):
        rig.run(run())
    rig.close()
    subprocess.run([SCRIPT, "start", own_docker_host], capture_output=True, check=True)
    again = Rig("docker")
    quick = PROGRAM.replace("sleep(5)", "sleep(0)")
    verdict = again.run(verify(PROBLEM, quick, sandbox=again.sandbox, config=again.config, stop_at_first_failure=True))
    assert verdict.outcome is Outcome.ACCEPTED
    again.close()
    assert containers() == []


@pytest.mark.slow
def test_a_container_killed_under_a_program_changes_no_verdict(own_docker_host):
    rig = Rig("docker")

    async def run():
        judged = asyncio.ensure_future(
            verify(PROBLEM, PROGRAM, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True)
        )
        await asyncio.sleep(2.5)
        subprocess.run(["docker", "kill", *_containers()], capture_output=True, check=False)
        return await judged

    assert rig.run(run()).outcome is Outcome.ACCEPTED
    rig.close()
    assert containers() == []


def test_a_container_of_a_dead_process_is_an_orphan_and_of_a_living_one_is_not():
    host, parent = os.uname().nodename, os.getppid()
    assert not is_orphan(f"{host}/{parent}/{start_time(parent)}/ab")
    assert is_orphan(f"{host}/{parent}/1/ab")
    assert not is_orphan(f"elsewhere/{parent}/1/ab")


def test_a_container_of_a_sandbox_that_was_closed_is_an_orphan():
    docker_host = DockerHost("unix:///a", make_config("docker"), num_spares=1)
    assert not is_orphan(docker_host._owner)
    _OPEN.discard(docker_host._owner)
    assert is_orphan(docker_host._owner)
