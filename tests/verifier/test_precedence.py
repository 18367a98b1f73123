"""When several limits are hit at once, or one and an end of another kind, the first in the table of sandbox.py counts.

output_limit > memory_limit > time_limit > signalled > exception > exited
"""

import itertools
import os

import pytest

from nouscoder_jax.types import ExecutionStatus
from nouscoder_jax.verifier.inside import candidate
from nouscoder_jax.verifier.inside.channel import Channel
from nouscoder_jax.verifier.inside.runner import Runner
from nouscoder_jax.verifier.inside.watch import Watch
from nouscoder_jax.verifier.sandbox import Limits


def execute(rig, program, *, cpu_s=5.0, memory_mib=128):
    """What one run of the program came to."""
    limits = Limits(cpu_s=cpu_s, wall_s=15.0, memory_mib=memory_mib, output_mib=1, max_processes=16)

    async def run():
        async with rig.sandbox.session(program, fn_name=None, limits=limits) as session:
            return await session.run("")

    return rig.run(run()).status


TOO_MUCH = "import os\ntry:\n    while True: os.write(1, b'x' * 65536)\nexcept OSError: pass\n"
BURN = "import time\nwhile time.process_time() < 0.21: pass\n"
"""More than 0.2 CPU seconds: it is stopped there or ends by itself a little later. Either way the limit is hit."""


def test_output_comes_before_memory(rig):
    assert execute(rig, TOO_MUCH + "raise MemoryError") is ExecutionStatus.OUTPUT_LIMIT


def test_output_comes_before_time(rig):
    assert execute(rig, TOO_MUCH + BURN + "time.sleep(60)", cpu_s=0.2) is ExecutionStatus.OUTPUT_LIMIT


def test_output_comes_before_a_signal(rig):
    assert execute(rig, TOO_MUCH + "os.kill(os.getpid(), 11)") is ExecutionStatus.OUTPUT_LIMIT


def test_output_comes_before_an_exception(rig):
    assert execute(rig, "print('x' * 3_000_000, flush=True)") is ExecutionStatus.OUTPUT_LIMIT


def test_memory_comes_before_time(rig):
    program = "x = bytearray(200 << 20)\nwhile True: x[::4096] = bytes(len(x) >> 12)"
    assert execute(rig, program, cpu_s=10.0) is ExecutionStatus.MEMORY_LIMIT


def test_memory_comes_before_the_signal_that_the_kernel_sends_for_it(rig):
    program = "x = []\nwhile True: x.append(bytearray(1 << 22))"
    assert execute(rig, program, cpu_s=10.0) is ExecutionStatus.MEMORY_LIMIT


def test_memory_comes_before_the_exception_that_says_so(rig):
    assert execute(rig, "x = bytearray(1 << 45)") is ExecutionStatus.MEMORY_LIMIT


def test_time_comes_before_the_signal_that_ends_the_program(rig):
    assert execute(rig, "while True: pass", cpu_s=0.2) is ExecutionStatus.TIME_LIMIT


def test_time_comes_before_a_signal_of_the_programs_own(rig):
    program = BURN + "import os\nos.kill(os.getpid(), 9)"
    assert execute(rig, program, cpu_s=0.2) is ExecutionStatus.TIME_LIMIT


def test_time_comes_before_an_exception(rig):
    assert execute(rig, BURN + "raise ValueError", cpu_s=0.2) is ExecutionStatus.TIME_LIMIT


def test_time_comes_before_a_normal_end(rig):
    assert execute(rig, BURN + "print(1)", cpu_s=0.2) is ExecutionStatus.TIME_LIMIT


def test_a_signal_comes_before_the_exception_under_way(rig):
    program = "import os\nclass X(Exception):\n    def __str__(self): os.kill(os.getpid(), 9)\nraise X"
    assert execute(rig, program) is ExecutionStatus.SIGNALLED


def test_an_exception_comes_before_a_normal_end(rig):
    assert execute(rig, "print(1)\nraise ValueError") is ExecutionStatus.EXCEPTION


def test_an_exit_of_any_code_is_a_normal_end(rig):
    assert execute(rig, "print(1)\nraise SystemExit(7)") is ExecutionStatus.EXITED


# What programs cannot bring about at the same moment for sure: every combination, put to the runner's own decision.

CONDITIONS = {
    "output_limit": ({"size": 2 << 20}, {"ended_for": "output_limit", "code": -9}),
    "memory_limit": ({"oom": True}, {"ended_for": "memory_limit", "code": -9}, {"code": candidate.EXIT_MEMORY}),
    "time_limit": ({"cpu_s": 3.0}, {"ended_for": "time_limit", "code": -9}),
    "signalled": ({"code": -11},),
    "exception": ({"code": candidate.EXIT_EXCEPTION},),
    "exited": ({"code": 0}, {"code": 1}),
}


def combinations():
    """Pairs of conditions, each in every form, that do not ask for two different values of one thing."""
    for (high, highs), (low, lows) in itertools.combinations(CONDITIONS.items(), 2):
        for left, right in itertools.product(highs, lows):
            if all(left[key] == right[key] for key in left.keys() & right.keys()):
                yield pytest.param(high, left | right, id=f"{high}-{low}-{len(left | right)}-{'-'.join(left | right)}")


class Answers(Channel):
    """A channel to no host, which keeps the status of each answer."""

    def __init__(self):
        self.statuses = []

    def answer(self, fields, descriptor, start, size):
        self.statuses.append(fields["status"])


@pytest.mark.parametrize(("expected", "facts"), list(combinations()))
def test_the_runner_names_the_first_of_two(expected, facts):
    values = {"size": 0, "oom": False, "ended_for": "", "code": 0, "cpu_s": 0.5} | facts
    runner = Runner(Answers())
    task = runner.task
    task.cpu_s, task.memory_mib, task.output_mib, task.fn_name = 2.0, 256, 1, ""
    task.wall_s = 6.0
    task.stdout_fd = task.stderr_fd = os.memfd_create("output")
    watch = Watch(task, runner.meter, 1, 0.0, host=-1)
    watch.code, watch.ended_for, watch.cpu_s = values["code"], values["ended_for"], values["cpu_s"]
    try:
        runner.conclude(watch, [values["size"], 0, 0], True, values["oom"])
    finally:
        os.close(task.stdout_fd)
    assert runner.channel.statuses == [expected]
