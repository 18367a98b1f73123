"""Outages, with a sandbox that plays them."""

import asyncio
import contextlib

import pytest
from judge_rig import make_config, make_problem

from nouscoder_jax.types import ExecutionStatus, JudgeError, Outcome
from nouscoder_jax.verifier import breaker
from nouscoder_jax.verifier.breaker import OutageError
from nouscoder_jax.verifier.judge import SandboxJudge
from nouscoder_jax.verifier.sandbox import Execution, SandboxOutError

PROBLEM = make_problem([("", "ok")])


class FailingSandbox:
    """`out` is whether programs run now; what began is in `order`."""

    name = "failing"

    def __init__(self):
        self.out = self.elsewhere = False
        self.probes = 0
        self.order = []
        self.said = []  # by its judge

    @contextlib.asynccontextmanager
    async def session(self, program, *, fn_name, limits):
        if self.out:
            raise SandboxOutError("the Docker host at X runs no program: refused")
        self.order.append(program)
        outer = self

        class Session:
            async def run(self, stdin):
                await asyncio.sleep(0.005)
                if outer.out:
                    raise SandboxOutError("the Docker host at X runs no program: gone")
                return Execution(
                    status=ExecutionStatus.EXITED, stdout=b"ok", cpu_s=0.1, wall_s=0.1, peak_memory_mib=9.0, detail=""
                )

        yield Session()

    async def probe(self):
        self.probes += 1
        await asyncio.sleep(0)
        if self.out and not self.elsewhere:
            raise JudgeError("the Docker host at X runs no program: refused")

    async def close(self):
        pass


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(breaker, "LAST_PAUSE_S", 0.02)


def play(scene, **changes):
    """Runs `scene(sandbox, judge)`; returns what it gives, the judge and the lines said."""
    said = []

    async def run():
        sandbox = FailingSandbox()
        sandbox.said = said
        values = dict(num_workers=2, max_retries=0, outage_limit_s=5.0)
        judge = SandboxJudge(
            sandbox, make_config("local", **(values | changes)), stop_at_first_failure=True, say=said.append
        )
        try:
            return await scene(sandbox, judge), judge
        finally:
            await judge.close()

    result, judge = asyncio.run(run())
    return result, judge, said


def ask(judge, programs):
    return [asyncio.ensure_future(judge.judge(PROBLEM, program)) for program in programs]


NAMES = list("abcdefgh")


def test_who_asks_first_is_served_first():
    async def scene(sandbox, judge):
        await asyncio.gather(*ask(judge, NAMES))
        return sandbox.order

    order, _, _ = play(scene)
    assert order == NAMES


def test_an_outage_is_waited_out_in_the_order_of_asking_and_not_counted():
    async def scene(sandbox, judge):
        sandbox.out = True
        tasks = ask(judge, NAMES)
        await asyncio.sleep(0.1)
        assert sandbox.order == [] and judge.num_waiting == 8
        sandbox.out = False
        return [verdict.outcome for verdict in await asyncio.gather(*tasks)], sandbox.order

    (outcomes, order), judge, said = play(scene)
    assert outcomes == [Outcome.ACCEPTED] * 8 and sorted(order[:2]) == ["a", "b"] and order[2:] == NAMES[2:]
    assert judge.breaker.num_outages == 1 and judge.breaker.outage_s > 0.05
    assert judge.num_waiting == 0 and len(said) == 2
    assert said[0] == (
        "judge: waiting: the Docker host at X runs no program: refused; 8 programs wait; run stops after 5 s"
    )
    assert said[1].startswith("judge: back after ")


def test_an_outage_in_the_middle_of_programs_changes_no_verdict():
    async def scene(sandbox, judge):
        tasks = ask(judge, NAMES)
        await asyncio.sleep(0.008)
        sandbox.out = True
        await asyncio.sleep(0.05)
        sandbox.out = False
        return [verdict.outcome for verdict in await asyncio.gather(*tasks)]

    outcomes, judge, _ = play(scene)
    assert outcomes == [Outcome.ACCEPTED] * 8 and judge.breaker.num_outages == 1


def test_one_probe_at_a_time_serves_all_who_wait():
    async def scene(sandbox, judge):
        sandbox.out = True
        tasks = ask(judge, NAMES)
        await asyncio.sleep(0.11)
        probes = sandbox.probes
        sandbox.out = False
        await asyncio.gather(*tasks)
        return probes

    probes, _, _ = play(scene, num_workers=8)
    assert probes <= 8


def test_an_outage_that_is_too_long_ends_the_run_with_one_line():
    async def scene(sandbox, judge):
        sandbox.out = True
        results = await asyncio.gather(*ask(judge, NAMES), return_exceptions=True)
        later = await asyncio.gather(*ask(judge, ["late"]), return_exceptions=True)
        return results + later, sandbox.order

    (results, order), judge, said = play(scene, outage_limit_s=0.1)
    assert order == [] and all(isinstance(result, OutageError) for result in results)
    assert "the Docker host at X" in str(results[0]) and "--resume" in str(results[0]) and "\n" not in str(results[0])
    assert judge.num_waiting == 0 and len(said) == 1


def test_a_reminder_says_how_long_it_has_been(monkeypatch):
    monkeypatch.setattr(breaker, "REMIND_S", 0.03)

    async def scene(sandbox, judge):
        sandbox.out = True
        tasks = ask(judge, NAMES)
        while len(sandbox.said) < 3:
            await asyncio.sleep(0.01)
        sandbox.out = False
        await asyncio.gather(*tasks)

    _, _, said = play(scene)
    assert len(said) >= 4 and all("still waiting after" in line for line in said[1:-1])


def test_a_program_that_is_cancelled_while_it_waits_holds_nobody_up():
    async def scene(sandbox, judge):
        sandbox.out = True
        tasks = ask(judge, NAMES)
        await asyncio.sleep(0.03)
        for index in (0, 3):
            tasks[index].cancel()
        await asyncio.sleep(0.01)
        sandbox.out = False
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [getattr(result, "outcome", type(result)) for result in results], judge.num_waiting

    (results, waiting), _, _ = play(scene)
    assert results.count(asyncio.CancelledError) == 2 and results.count(Outcome.ACCEPTED) == 6 and waiting == 0


def test_a_failure_elsewhere_is_not_an_outage():
    """One of two Docker hosts is out: the program goes to the other at once."""

    async def scene(sandbox, judge):
        sandbox.out = sandbox.elsewhere = True
        task = ask(judge, ["a"])[0]
        await asyncio.sleep(0.02)
        sandbox.out = False
        return (await task).outcome

    outcome, judge, said = play(scene)
    assert outcome is Outcome.ACCEPTED and judge.breaker.num_outages == 0 and said == []
