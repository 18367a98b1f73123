import asyncio
import contextlib
import os
import time

import pytest
from judge_rig import make_config, make_problem

from nouscoder_jax.config import UserError
from nouscoder_jax.types import ExecutionStatus, JudgeError, Outcome
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox
from nouscoder_jax.verifier.local import LocalSandbox
from nouscoder_jax.verifier.sandbox import Execution, RunnerLostError
from nouscoder_jax.verifier.verify import GOT_CHARS, hardest_first, limits_of, verify

PROBLEM = make_problem([("1 2\n", "3\n"), ("10 20\n", "30\n"), ("4 4\n", "8\n")])


class ScriptedSandbox:
    """Answers each session from a script: an error to raise at its start, or the outputs of its runs in order."""

    name = "scripted"

    def __init__(self, *sessions):
        self.sessions = list(sessions)
        self.inputs = []
        self.running = self.most_running = 0

    @contextlib.asynccontextmanager
    async def session(self, program, *, fn_name, limits):
        script = self.sessions.pop(0)
        if isinstance(script, Exception):
            raise script
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        outer, outputs = self, list(script)

        class Session:
            clean = True

            async def run(self, stdin):
                await asyncio.sleep(0.01)
                outer.inputs.append(stdin)
                output = outputs.pop(0)
                if isinstance(output, Exception):
                    raise output
                return Execution(
                    status=ExecutionStatus.EXITED, stdout=output, cpu_s=0.5, wall_s=0.5, peak_memory_mib=9.0, detail=""
                )

        try:
            yield Session()
        finally:
            self.running -= 1

    async def probe(self):
        pass

    async def close(self):
        pass


RIGHT = [b"30", b"3", b"8"]


def judge(sandbox, *, stop=True, program="x", problem=PROBLEM, **changes):
    config = make_config("local", **changes)
    return asyncio.run(verify(problem, program, sandbox=sandbox, config=config, stop_at_first_failure=stop))


def test_the_longest_input_runs_first():
    sandbox = ScriptedSandbox(RIGHT)
    assert judge(sandbox).outcome is Outcome.ACCEPTED
    assert sandbox.inputs == ["10 20\n", "1 2\n", "4 4\n"]
    assert [number for number, _ in hardest_first(PROBLEM.tests)] == [2, 1, 3]


def test_the_first_failure_ends_the_judging():
    sandbox = ScriptedSandbox([b"30", b"wrong"])
    verdict = judge(sandbox)
    assert (verdict.outcome, verdict.tests_passed, verdict.tests_total) == (Outcome.WRONG_ANSWER, 1, 3)
    assert len(sandbox.inputs) == 2 and "test 1" in verdict.detail


def test_a_verdict_keeps_the_first_failing_test_and_the_beginning_of_what_the_program_printed():
    verdict = judge(ScriptedSandbox([b"30", b"\xff5" + b"x" * 5000, b"wrong"]), stop=False)
    assert verdict.failed_test == 1 and verdict.got == "\ufffd5" + "x" * (GOT_CHARS - 2)
    verdict = judge(ScriptedSandbox(RIGHT))
    assert (verdict.failed_test, verdict.got) == (None, "")


def test_all_tests_run_where_asked_for():
    verdict = judge(ScriptedSandbox([b"30", b"wrong", b"8"]), stop=False)
    assert (verdict.outcome, verdict.tests_passed) == (Outcome.WRONG_ANSWER, 2)


def test_no_program_needs_no_sandbox():
    assert judge(ScriptedSandbox(), program=None).outcome is Outcome.NO_PROGRAM


def test_a_judge_failure_is_tried_again_elsewhere_and_changes_no_verdict():
    assert judge(ScriptedSandbox(JudgeError("away"), RIGHT), max_retries=1).outcome is Outcome.ACCEPTED
    assert judge(ScriptedSandbox([b"30", JudgeError("away")], RIGHT), max_retries=1).outcome is Outcome.ACCEPTED


def test_a_judge_failure_that_stays_is_raised_and_is_no_verdict():
    with pytest.raises(JudgeError, match="away"):
        judge(ScriptedSandbox(JudgeError("away"), JudgeError("away")), max_retries=1)


def test_a_sandbox_that_dies_with_the_program_once_is_forgiven():
    lost = RunnerLostError("silent")
    assert judge(ScriptedSandbox([lost], RIGHT), max_retries=0).outcome is Outcome.ACCEPTED


def test_a_sandbox_that_dies_with_the_program_twice_counts_against_it():
    lost = RunnerLostError("silent")
    assert judge(ScriptedSandbox([lost], [b"30", lost]), max_retries=0).outcome is Outcome.RUNTIME_ERROR


def test_a_problems_own_limits_count_and_memory_is_the_lower_of_two():
    config = make_config("local", default_time_limit_s=15.0, wall_factor=3.0, memory_limit_mib=512)
    own = limits_of(make_problem([("", "")], time_limit_s=1.5, memory_limit_mib=64), config)
    assert (own.cpu_s, own.wall_s, own.memory_mib) == (1.5, 4.5, 64)
    default = limits_of(make_problem([("", "")], time_limit_s=None, memory_limit_mib=9999), config)
    assert (default.cpu_s, default.wall_s, default.memory_mib) == (15.0, 45.0, 512)


def test_as_many_programs_run_at_once_as_there_are_workers():
    sandbox = ScriptedSandbox(*[list(RIGHT) for _ in range(5)], JudgeError("away"))
    config = make_config("local", num_workers=2, max_retries=0)

    async def run():
        judge = SandboxJudge(sandbox, config, stop_at_first_failure=True, say=print)
        return await asyncio.gather(*(judge.judge(PROBLEM, "x") for _ in range(6)), return_exceptions=True)

    results = asyncio.run(run())
    assert sandbox.most_running == 2
    assert sum(isinstance(result, JudgeError) for result in results) == 1
    assert sum(getattr(result, "outcome", None) is Outcome.ACCEPTED for result in results) == 5


def test_the_backend_chosen_by_name_must_work(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(UserError, match=r"/nowhere/docker.sock"):
        make_sandbox(make_config("docker"))


def test_auto_does_not_fall_back_where_docker_hosts_are_named():
    with pytest.raises(UserError, match=r"/nowhere/docker.sock"):
        make_sandbox(make_config("auto", docker_hosts=("unix:///nowhere/docker.sock",)))


def test_auto_falls_back_to_the_weaker_sandbox_and_says_so(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    sandbox = make_sandbox(make_config("auto"))
    assert isinstance(sandbox, LocalSandbox)
    assert "weaker than docker" in sandbox.name and "/nowhere/docker.sock" in sandbox.name


def children():
    """Descendants of this process that are alive."""
    found, queue = [], [os.getpid()]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    queue += (new := [int(word) for word in file.read().split()])
                    found += new
    return found


def test_a_cancelled_local_judgement_leaves_no_process(local_rig):
    problem = make_problem([("", "")], time_limit_s=30.0)
    before = set(children())

    async def run():
        task = asyncio.ensure_future(
            verify(
                problem,
                "import os\nos.fork()\nwhile True: pass",
                sandbox=local_rig.sandbox,
                config=local_rig.config,
                stop_at_first_failure=True,
            )
        )
        await until(lambda: set(children()) - before)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    local_rig.run(run())
    asyncio.run(until(lambda: not set(children()) - before))


async def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_a_killed_local_runner_is_lost_and_never_a_verdict_by_itself(local_rig):
    """Killed from outside while the program runs: tried again, then accepted."""
    problem = make_problem([("", "5")], time_limit_s=10.0)
    before = set(children())

    async def run():
        task = asyncio.ensure_future(
            verify(
                problem,
                "import time\ntime.sleep(4)\nprint(5)",
                sandbox=local_rig.sandbox,
                config=local_rig.config,
                stop_at_first_failure=True,
            )
        )
        await until(lambda: set(children()) - before)
        os.kill(min(set(children()) - before), 9)
        return await task

    assert local_rig.run(run()).outcome is Outcome.ACCEPTED
