"""Ways to reach Docker hosts, the choice between several, and what a container's end says about a program."""

import asyncio
import os
import shutil
import socket
import subprocess

import pytest
from judge_rig import make_config, make_problem
from own_docker_host import OwnDockerHost

from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError, Outcome
from nouscoder_jax.verifier.docker.client import DockerClient
from nouscoder_jax.verifier.docker.container import cause_of_end
from nouscoder_jax.verifier.docker.host import DockerHost
from nouscoder_jax.verifier.docker.sandbox import DockerSandbox
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox
from nouscoder_jax.verifier.sandbox import RunnerLostError, SandboxOutError

PROBLEM = make_problem([("2 3\n", "5\n"), ("x" * 300_000 + "\n", "300000\n")])
PROGRAM = "s = input()\nprint(sum(map(int, s.split())) if ' ' in s else len(s))"
LARGE_OUTPUT = make_problem([("", "y" * 900_000)])


def state(code, *, oom=False):
    return {"ExitCode": code, "OOMKilled": oom, "Running": False}


def test_a_container_killed_from_outside_is_never_the_programs_doing():
    assert type(cause_of_end(state(137), "")) is JudgeError


def test_a_container_that_left_because_its_connection_was_closed_is_never_the_programs_doing():
    assert type(cause_of_end(state(0), "")) is JudgeError


@pytest.mark.parametrize("code", [255, None])
def test_a_container_that_the_docker_host_lost_sight_of_is_never_the_programs_doing(code):
    assert type(cause_of_end(state(code), "")) is JudgeError


def test_a_container_ended_for_its_memory_may_be_the_programs_doing():
    assert type(cause_of_end(state(137, oom=True), "")) is RunnerLostError


def test_a_runner_that_crashed_may_be_the_programs_doing():
    assert type(cause_of_end(state(139), "")) is RunnerLostError


@pytest.mark.parametrize("host", ["ftp://x", "tcp://", "unix", "http://host:port:port"])
def test_what_is_no_address_of_a_docker_host_is_named(host):
    with pytest.raises(UserError, match=r"address|answers") as caught:
        DockerSandbox(make_config("docker", docker_hosts=(host,)))
    assert host in str(caught.value) and "\n" not in str(caught.value)


def test_a_docker_host_of_several_that_does_not_answer_at_the_start_is_named():
    with pytest.raises(UserError, match=r"unix:///nowhere/docker.sock"):
        DockerSandbox(make_config("docker", docker_hosts=("unix:///nowhere/docker.sock",)))


def test_a_docker_host_named_twice_is_a_mistake():
    with pytest.raises(ValueError, match="twice"):
        make_config("docker", docker_hosts=("unix:///a", "unix:///a"))


def test_certificates_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(UserError, match="DOCKER_CERT_PATH"):
        DockerClient("tcp://127.0.0.1:2376", num_threads=1)


def a_docker_host(*, healthy, num_running):
    """A Docker host that nobody has reached yet, in some state."""
    made = DockerHost(f"unix:///{num_running}", make_config("docker"), num_spares=1)
    made.healthy, made.num_running = healthy, num_running
    return made


def chosen(*docker_hosts):
    sandbox = object.__new__(DockerSandbox)
    sandbox.hosts = list(docker_hosts)
    return sandbox._choose()


def test_a_program_goes_to_the_docker_host_with_the_fewest():
    busy, idle = a_docker_host(healthy=True, num_running=3), a_docker_host(healthy=True, num_running=1)
    assert chosen(busy, idle) is idle


def test_a_program_does_not_go_to_a_docker_host_whose_probe_failed():
    out, busy = a_docker_host(healthy=False, num_running=0), a_docker_host(healthy=True, num_running=9)
    assert chosen(out, busy) is busy


def test_no_healthy_docker_host_is_an_outage():
    with pytest.raises(SandboxOutError):
        chosen(a_docker_host(healthy=False, num_running=0))


def judge_all(config, jobs):
    """The outcome of each (problem, program)."""

    async def run():
        judge = SandboxJudge(make_sandbox(config), config, stop_at_first_failure=True, say=print)
        try:
            verdicts = await asyncio.gather(*(judge.judge(*job) for job in jobs))
            return [verdict.outcome for verdict in verdicts], judge
        finally:
            await judge.close()

    return asyncio.run(run())


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder):
    """A certificate authority, a server's and a client's certificates, as Docker's manual asks for."""
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca.pem",
            "-subj", "/CN=ca", "-days", "2", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, extension in (
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        (folder / f"{name}.cnf").write_text(extension)
        key, request = f"{name}-key.pem", f"{name}.csr"
        openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl(folder, "x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                "-out", f"{name}-cert.pem", "-days", "2", "-extfile", f"{name}.cnf")  # fmt: skip
    shutil.copy(folder / "client-cert.pem", folder / "cert.pem")
    shutil.copy(folder / "client-key.pem", folder / "key.pem")


@pytest.mark.slow
def test_programs_are_judged_by_a_docker_host_behind_tls(monkeypatch, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("certificates for the test need openssl")
    make_certificates(tmp_path)
    port = free_port()
    tls = ["--tlsverify", "--tlscacert", tmp_path / "ca.pem", "--tlscert", tmp_path / "server-cert.pem"]
    docker_host = OwnDockerHost(
        options=["-H", f"tcp://127.0.0.1:{port}", *tls, "--tlskey", tmp_path / "server-key.pem"]
    )
    try:
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        config = make_config("docker", docker_hosts=(f"tcp://127.0.0.1:{port}",), rollouts_per_sandbox=1)
        outcomes, _ = judge_all(
            config, [(PROBLEM, PROGRAM), (PROBLEM, "print(5)"), (LARGE_OUTPUT, "print('y' * 900_000)")]
        )
        assert outcomes == [Outcome.ACCEPTED, Outcome.WRONG_ANSWER, Outcome.ACCEPTED]
        monkeypatch.delenv("DOCKER_TLS_VERIFY")
        monkeypatch.delenv("DOCKER_CERT_PATH")
        assert docker_host.containers() == []
        assert docker_host.runners() == []
    finally:
        docker_host.close()


@pytest.mark.slow
def test_programs_are_judged_by_a_docker_host_behind_ssh(monkeypatch, tmp_path):
    """`ssh` is a stand-in that runs the remote command here."""
    pytest.importorskip("paramiko", reason="the Docker SDK needs paramiko for ssh://")
    docker_host = OwnDockerHost()
    fake = tmp_path / "ssh"
    fake.write_text(f"#!/bin/sh\nfor last; do :; done\nDOCKER_HOST={docker_host.address} exec $last\n")
    fake.chmod(0o755)
    try:
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        config = make_config("docker", docker_hosts=("ssh://judge@elsewhere",), rollouts_per_sandbox=1)
        outcomes, _ = judge_all(
            config, [(PROBLEM, PROGRAM), (PROBLEM, "print(5)"), (LARGE_OUTPUT, "print('y' * 900_000)")]
        )
        assert outcomes == [Outcome.ACCEPTED, Outcome.WRONG_ANSWER, Outcome.ACCEPTED]
        assert docker_host.containers() == []
    finally:
        docker_host.close()


@pytest.mark.slow
def test_two_docker_hosts_share_the_programs():
    docker_hosts = [OwnDockerHost(), OwnDockerHost()]
    try:
        config = make_config(
            "docker", docker_hosts=tuple(docker_host.address for docker_host in docker_hosts), rollouts_per_sandbox=1
        )

        async def run():
            sandbox = make_sandbox(config)
            judge = SandboxJudge(sandbox, config, stop_at_first_failure=True, say=print)
            tasks = [asyncio.ensure_future(judge.judge(PROBLEM, PROGRAM)) for _ in range(6)]
            seen = set()
            while not all(task.done() for task in tasks):
                seen.add(tuple(docker_host.num_running for docker_host in sandbox.hosts))
                await asyncio.sleep(0.01)
            await judge.close()
            return [task.result().outcome for task in tasks], seen, judge.name

        outcomes, seen, name = asyncio.run(run())
        assert outcomes == [Outcome.ACCEPTED] * 6
        assert (1, 1) in seen and max(map(sum, seen)) == 2
        assert "on 2 hosts" in name
        assert [docker_host.containers() for docker_host in docker_hosts] == [[], []]
    finally:
        for docker_host in docker_hosts:
            docker_host.close()
