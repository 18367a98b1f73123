"""`bench.py judge`: what it measures is what it says, and no way of judging is measured that judges wrongly."""

import argparse
import asyncio
import json
import os
import subprocess
import sys

import docker
import pytest

from nouscoder_jax.bench.judge import command, inprocess
from nouscoder_jax.bench.judge.command import RATIO_TO, Judging
from nouscoder_jax.bench.judge.cpu_meter import CpuMeter, daemon_processes
from nouscoder_jax.bench.judge.programs import make_programs
from nouscoder_jax.bench.judge.ways import InProcess, host_process
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError


class Fake(InProcess):
    """Says what a test has set, in time that it has set; has a lead-in, as ways with processes of their own have."""

    def __init__(self, said):
        self.said, self.judged = said, []

    async def judge(self, problem, program):
        self.judged.append(problem.problem_id)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said, [0.1, 0.3]

    async def close(self):
        pass


def judging(runner, way, **fields):
    programs = make_programs(num_programs=2, num_tests=2)
    return Judging(runner, lambda: way, programs, **{"num_workers": 1, "cpu_s": lambda: 0.0} | fields)


def contender(name, **figures):
    values = dict.fromkeys(("speed", "cpu_ms", "rollouts_per_s", "p50_ms", "p99_ms"), 1.0)
    return Contender(name=name, turn=dict, rounds=[values | figures] if figures else [])


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return command.run(parser.parse_args(arguments))


def test_the_programs_are_the_same_on_every_run_and_all_different():
    programs = make_programs(num_programs=50, num_tests=20)
    assert programs == make_programs(num_programs=50, num_tests=20)
    assert len({program for _, program in programs}) == 50
    assert {len(problem.tests) for problem, _ in programs} == {20}


@pytest.mark.parametrize("way", [*inprocess.WAYS, "host"])
def test_a_baseline_accepts_the_right_program_and_no_other(way):
    (problem, right), (_, wrong) = make_programs(num_programs=2, num_tests=3)

    async def run():
        made = host_process() if way == "host" else InProcess(way)
        try:
            return [await made.judge(problem, program) for program in (right, wrong)]
        finally:
            await made.close()

    judged = asyncio.run(run())
    assert [accepted for accepted, _ in judged] == [True, False]
    assert all(len(seconds) == 3 and min(seconds) > 0 for _, seconds in judged)


def test_the_clock_leaves_out_the_lead_in(monkeypatch):
    wall, cpu, way = iter([0.0, 1.0, 4.0]), iter([5.0, 5.5, 7.5]), Fake(True)
    monkeypatch.setattr(command.time, "perf_counter", lambda: next(wall))
    with asyncio.Runner() as runner:
        found = judging(runner, way, cpu_s=lambda: next(cpu)).turn()
    assert len(way.judged) == 3 + 2
    # from 1 s and 5.5 CPU s to 4 s and 7.5 CPU s: 2 rollouts, 4 tests
    assert (found["wall_s"], found["cpu_s"], found["work"]) == (3.0, 2.0, 4)
    assert found["rollouts_per_s"] == pytest.approx(2 / 3) and found["cpu_ms"] == pytest.approx(500)
    assert (found["p50_ms"], found["p99_ms"]) == (pytest.approx(200), pytest.approx(300))


@pytest.mark.parametrize(("said", "told"), [(False, "was not accepted"), (JudgeError("no sandbox"), "no sandbox")])
def test_a_way_that_judges_wrongly_or_not_at_all_is_not_measured(said, told):
    with asyncio.Runner() as runner, pytest.raises(RuntimeError, match=told):
        judging(runner, Fake(said)).turn()


def test_targets_are_judged_each_on_its_side_and_what_was_skipped_is_neither_met_nor_missed():
    def met(one):
        return [target.met for target in command.report([one], {}).targets]

    assert met(contender("docker warm", speed=500.0, p99_ms=10.1, cpu_ms=3.5)) == [True, False, True]
    assert met(contender("docker fresh", rollouts_per_s=9.9)) == [False]
    assert met(contender("docker warm")) == [None] * 3


def test_the_script_measures_and_writes_it_down(root, tmp_path):
    out = tmp_path / "judge.json"
    only = f"local warm,local fresh,{RATIO_TO},floor"
    words = [sys.executable, "scripts/bench.py", "judge", "--quick", "--only", only, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    measured = {one["name"]: one for one in content["contenders"]}
    assert set(measured) == {"local warm", "local fresh", RATIO_TO, "floor: fork + program"}
    assert all(not one["skipped"] and one["median"]["speed"] > 0 for one in measured.values())
    assert max(one["median"]["cpu_ms"] for one in measured.values()) > 0  # of one alone: /proc counts ticks of 10 ms
    assert {"date", "commit", "hardware", "versions", "settings"} <= set(content)


def test_a_way_without_its_backend_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    out = tmp_path / "judge.json"
    assert bench("--quick", "--only", "docker warm", "--out", str(out)) == 0
    (one,) = json.loads(out.read_text())["contenders"]
    assert one["name"] == "docker warm" and "ocker" in one["skipped"]


def test_a_way_that_there_is_not_is_told_in_one_line():
    with pytest.raises(UserError, match="the ways are docker warm"):
        bench("--only", "nothing")


@pytest.mark.slow
def test_every_way_that_this_machine_has_is_measured(tmp_path):
    out = tmp_path / "judge.json"
    assert bench("--quick", "--out", str(out)) == 0
    found = json.loads(out.read_text())["contenders"]
    assert len(found) == 10
    assert [one for one in found if one["skipped"].startswith("failed")] == []


@pytest.mark.slow
def test_the_cpu_seconds_of_containers_count():
    daemon = daemon_processes(os.environ.get("DOCKER_HOST", ""))
    with CpuMeter(daemon) as meter:
        if not daemon or "Docker daemon" not in meter.how:
            pytest.skip(f"of a Docker daemon nothing is counted here, but {meter.how}")
        before = meter.cpu_s()
        burn = "import time\nwhile time.process_time() < 1: pass"
        try:
            command = ["python3", "-c", burn]
            docker.from_env().containers.run("nouscoder-judge", command, network_mode="none", remove=True)
        except docker.errors.ImageNotFound:
            pytest.skip("the judge's image has not been made")
        assert meter.cpu_s() - before >= 0.9
