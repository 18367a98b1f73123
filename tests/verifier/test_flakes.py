"""The same verdict each time, on a machine that is loaded four times over."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter

import pytest
from flake_programs import make_programs
from judge_rig import make_problem

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.sandbox import Limits
from nouscoder_jax.verifier.verify import verify

BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6):\n        pass"
CPU_S, LIMIT_S = 0.8, 2.0
LOOP = "total = 0\nfor number in range(COUNT):\n    total += number * number\nprint(total)"


pytestmark = pytest.mark.alone


@contextlib.contextmanager
def loaded_machine(rig):
    """Four busy processes a core, as nice as the programs of this sandbox are; gone afterwards."""
    nice = int(run_alone(rig, "import os\nprint(os.nice(0))").stdout)
    command = [sys.executable, "-I", "-S", "-c", BUSY]
    # Sessions of their own: where the scheduler shares time among sessions, one session would be one share.
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        for process in busy:
            with contextlib.suppress(PermissionError):  # only root makes a process less nice
                os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_alone(rig, program):
    """What the program does on an empty input, with limits that it cannot reach."""
    limits = Limits(cpu_s=30.0, wall_s=120.0, memory_mib=256, output_mib=1, max_processes=8)

    async def run():
        async with rig.sandbox.session(program, fn_name=None, limits=limits) as session:
            return await session.run("")

    return rig.run(run())


def judge_all(rig, programs):
    """Verdicts of (problem, program) pairs, in their order, as many at a time as the sandbox has workers."""
    workers = asyncio.Semaphore(rig.config.num_workers)

    async def one(problem, program):
        async with workers:
            return await verify(problem, program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True)

    async def run():
        return await asyncio.gather(*(one(problem, program) for problem, program in programs))

    return rig.loop.run_until_complete(run())


def test_the_200_programs_of_the_audit_are_all_different():
    programs = make_programs()
    assert len(programs) == len({(problem, program) for _, problem, program, _ in programs}) == 200


@pytest.mark.parametrize(
    ("every", "runs"),
    [
        # Each fifth has all templates among them.
        pytest.param(5, 2, marks=[pytest.mark.slow, pytest.mark.timeout(600)], id="40 programs twice"),
        pytest.param(1, 20, marks=[pytest.mark.soak, pytest.mark.timeout(14_400)], id="200 programs 20 times"),
    ],
)
def test_programs_get_the_same_verdict_each_time_on_a_loaded_machine(rig, every, runs):
    programs = make_programs()[::every]
    seen = {name: Counter() for name, *_ in programs}
    with loaded_machine(rig):
        for _ in range(runs):
            verdicts = judge_all(rig, [(problem, program) for _, problem, program, _ in programs])
            for (name, *_), verdict in zip(programs, verdicts, strict=True):
                seen[name][verdict.outcome, verdict.tests_passed, verdict.detail] += 1
    wrong = [
        f"{name}, expected {expected.value}: {dict(seen[name])}"
        for name, _, _, expected in programs
        if len({(outcome, passed) for outcome, passed, _ in seen[name]}) > 1
        or any(outcome is not expected for outcome, _, _ in seen[name])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "times",
    [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.soak)],
)
@pytest.mark.timeout(1800)
def test_a_correct_program_of_0_8_cpu_seconds_is_never_over_a_limit_of_2(rig, times):
    with loaded_machine(rig):
        first = 2_000_000
        measured = run_alone(rig, LOOP.replace("COUNT", str(first)))
        count = int(first * CPU_S / measured.cpu_s)  # measured under load, where a second does less
        expected = (count - 1) * count * (2 * count - 1) // 6
        problem = make_problem([("", f"{expected}\n")], time_limit_s=LIMIT_S)
        verdicts = judge_all(rig, [(problem, LOOP.replace("COUNT", str(count)))] * times)
    told = [(verdict.outcome.value, round(verdict.cpu_s, 2), verdict.detail) for verdict in verdicts]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.ACCEPTED] * times, told
    # Otherwise the program was not what the name of this test says.
    assert min(verdict.cpu_s for verdict in verdicts) > 0.4, told
