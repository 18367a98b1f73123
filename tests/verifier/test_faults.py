"""Faults while a batch is judged: no verdict changes, nothing is blamed on a program, nothing is left running."""

import asyncio
import contextlib
import os
import signal
import time

import pytest
from judge_rig import make_config, make_problem
from own_docker_host import OwnDockerHost

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.breaker import OutageError
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox

TESTS = [(f"{n} {n + 1}\n", f"{2 * n + 1}\n") for n in range(4)]
RIGHT = "import time\ntime.sleep(0.3)\nprint(sum(map(int, input().split())))"
PROGRAMS = [
    (RIGHT, Outcome.ACCEPTED),
    (RIGHT.replace("sum(", "1 + sum("), Outcome.WRONG_ANSWER),
    ("import time\ntime.sleep(0.3)\nraise ValueError('mine')", Outcome.RUNTIME_ERROR),
    ("while True: pass", Outcome.TIME_LIMIT),
    ("import time\ntime.sleep(0.3)\nlist(range(10**9))", Outcome.MEMORY_LIMIT),
    (RIGHT, Outcome.ACCEPTED),
] * 2


@pytest.fixture
def docker_host(monkeypatch):
    """A Docker host that a test may break."""
    made = OwnDockerHost()
    monkeypatch.setenv("DOCKER_HOST", made.address)
    yield made
    made.close()


class Batch:
    """Programs of known verdicts, judged while `fault(self)` happens."""

    def __init__(self, **changes):
        self.said = []
        self.started = None
        values = dict(
            num_workers=2, rollouts_per_sandbox=1, default_time_limit_s=0.7, memory_limit_mib=128, max_retries=2,
            outage_limit_s=60.0,
        )  # fmt: skip
        self.config = make_config("docker", **(values | changes))

    def judge(self, fault):
        return asyncio.run(self._judge(fault))

    async def _judge(self, fault):
        self.sandbox_judge = SandboxJudge(
            make_sandbox(self.config), self.config, stop_at_first_failure=True, say=self.said.append
        )
        problem = make_problem(TESTS, time_limit_s=0.7)
        try:
            tasks = [asyncio.ensure_future(self.sandbox_judge.judge(problem, program)) for program, _ in PROGRAMS]
            await asyncio.sleep(1.0)
            broken = asyncio.ensure_future(fault())
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await broken
        finally:
            await self.sandbox_judge.close()
        return results


def expect_known(results):
    assert [getattr(result, "outcome", result) for result in results] == [outcome for _, outcome in PROGRAMS]


def expect_nothing_left(docker_host):
    assert docker_host.containers() == []
    assert docker_host.runners() == []


async def crash(batch, docker_host):
    """Kills the Docker host while it is starting no container: Docker forgets one that it had started half, and its
    process stays until the runner gives up by itself."""
    deadline = time.monotonic() + 5
    hosts = batch.sandbox_judge.sandbox.hosts
    spares = next(made._spare for made in hosts if made.address == docker_host.address)
    while time.monotonic() < deadline and not (spares and all(task.done() for task in spares)):
        await asyncio.sleep(0.005)
    os.kill(docker_host.pid, signal.SIGKILL)
    await asyncio.to_thread(docker_host.kill)


async def in_thread(*calls):
    for call in calls:
        await asyncio.to_thread(call)


@pytest.mark.slow
def test_a_docker_host_killed_and_started_again_changes_no_verdict(docker_host):
    batch = Batch()

    async def fault():
        await crash(batch, docker_host)
        await asyncio.sleep(2.0)
        await in_thread(docker_host.start)

    expect_known(batch.judge(fault))
    assert batch.sandbox_judge.breaker.num_outages >= 1 and batch.sandbox_judge.breaker.outage_s > 1.0
    assert batch.said[0].startswith("judge: waiting: ") and docker_host.address in batch.said[0]
    assert batch.said[-1].startswith("judge: back after ")
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_a_docker_host_restarted_in_order_changes_no_verdict(docker_host):
    async def fault():
        await in_thread(docker_host.stop_in_order, docker_host.start)

    expect_known(Batch().judge(fault))
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_a_docker_host_that_stands_still_for_five_seconds_changes_no_verdict(docker_host):
    async def fault():
        docker_host.signal(signal.SIGSTOP)
        await asyncio.sleep(5.0)
        docker_host.signal(signal.SIGCONT)

    expect_known(Batch().judge(fault))
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_a_slow_docker_host_changes_no_verdict(docker_host):
    async def fault():
        for _ in range(40):
            docker_host.signal(signal.SIGSTOP)
            await asyncio.sleep(0.2)
            docker_host.signal(signal.SIGCONT)
            await asyncio.sleep(0.05)

    expect_known(Batch().judge(fault))
    expect_nothing_left(docker_host)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_containers_killed_from_outside_change_no_verdict(docker_host, times):
    async def fault():
        for _ in range(times):
            await asyncio.to_thread(lambda: docker_host.docker("kill", *docker_host.docker("ps", "-q")))
            await asyncio.sleep(0.5)

    expect_known(Batch(max_retries=4).judge(fault))
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_an_image_of_ours_that_is_removed_is_made_again(docker_host):
    batch = Batch(max_retries=0)

    async def fault():
        await asyncio.to_thread(lambda: docker_host.docker("rmi", "-f", batch.config.image))

    expect_known(batch.judge(fault))
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_a_full_disk_is_waited_out(monkeypatch):
    docker_host = OwnDockerHost(root_mib=120)
    monkeypatch.setenv("DOCKER_HOST", docker_host.address)
    batch = Batch()

    async def fault():
        with open(docker_host.root / "filler", "wb", buffering=0) as file:
            for size in [1 << 20] + [1 << 12] * 100:  # what containers that end give back is taken too
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
                await asyncio.sleep(0.05)
        (docker_host.root / "filler").unlink()

    try:
        expect_known(batch.judge(fault))
        assert batch.sandbox_judge.breaker.num_outages >= 1
        expect_nothing_left(docker_host)
    finally:
        docker_host.close()


@pytest.mark.slow
def test_a_machine_out_of_processes_is_waited_out(docker_host):
    batch = Batch()
    limit = f"/sys/fs/cgroup/pids/{docker_host.folder.name}/pids.max"
    try:
        os.makedirs(os.path.dirname(limit), exist_ok=True)
    except OSError:
        pytest.skip("no pids controller of cgroup v1 that may be written")

    async def fault():
        with open(limit, "w") as file:
            file.write("1")
        await asyncio.sleep(4.0)
        with open(limit, "w") as file:
            file.write("max")

    expect_known(batch.judge(fault))
    assert batch.sandbox_judge.breaker.num_outages >= 1
    expect_nothing_left(docker_host)


@pytest.mark.slow
def test_a_docker_host_that_is_gone_for_good_ends_the_run_with_one_line(docker_host):
    batch = Batch(outage_limit_s=3.0)
    results = batch.judge(lambda: crash(batch, docker_host))
    outages = [result for result in results if isinstance(result, OutageError)]
    assert outages and all(
        isinstance(result, OutageError) or result.outcome is outcome
        for result, (_, outcome) in zip(results, PROGRAMS, strict=True)
    )
    assert docker_host.address in str(outages[0]) and "--resume" in str(outages[0]) and "\n" not in str(outages[0])
    assert len(batch.said) == 1
    docker_host.start()  # what a crashed Docker host left idle goes when it comes back
    expect_no_runner(docker_host)


@pytest.mark.slow
def test_when_one_of_two_docker_hosts_dies_the_other_finishes_the_batch_without_waiting(docker_host):
    other = OwnDockerHost()
    batch = Batch(docker_hosts=(docker_host.address, other.address))
    try:
        expect_known(batch.judge(lambda: crash(batch, docker_host)))
        assert batch.said == [] and batch.sandbox_judge.breaker.num_outages == 0
        expect_nothing_left(other)
        docker_host.start()
        expect_no_runner(docker_host)
    finally:
        other.close()


def expect_no_runner(docker_host):
    """Nothing runs. Entries of dead containers may be there until the next judge starts."""

    def running():
        # A Docker host that is killed between making a container and starting it leaves a runc that waits for the start
        # for ever, whatever runs in it later: nothing of ours has begun there.
        return [told for told in docker_host.runners() if "wait_for_partner" not in told or "runc" not in told]

    for _ in range(200):
        if not running():
            break
        time.sleep(0.1)
    assert running() == []
