"""`bench.py judge`: what it measures is what it says, and no way of judging is measured that judges wrongly."""

import argparse
import asyncio
import json
import subprocess
import sys
import time

import pytest

from nouscoder_jax.bench.cpu import CpuMeter
from nouscoder_jax.bench.judge import command, inprocess, table
from nouscoder_jax.bench.judge.baselines import InProcess, host_process
from nouscoder_jax.bench.judge.modes import RATIO_TO, make_modes
from nouscoder_jax.bench.judge.programs import Judged, make_programs
from nouscoder_jax.bench.judge.table import ModeResult, Round
from nouscoder_jax.config import UserError


class Meter(CpuMeter):
    """CPU seconds as a test sets them."""

    now = 0.0

    def cpu_s(self) -> float:
        return self.now


def make_round(**changes) -> Round:
    values = dict(
        tests_per_s=100.0, rollouts_per_s=5.0, p50_ms=3.0, p99_ms=9.0, cpu_ms_per_test=3.0, others_share=0.0
    )  # fmt: skip
    return Round(**(values | changes))


def make_result(name: str, speeds: list[float]) -> ModeResult:
    rounds = [make_round(tests_per_s=speed) for speed in speeds]
    return ModeResult(name=name, kind="ours", num_programs=50, rounds=rounds)


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
        contender = host_process() if way == "host" else InProcess(way)
        try:
            return [await contender.judge(problem, program) for program in (right, wrong)]
        finally:
            await contender.close()

    judged = asyncio.run(run())
    assert [one.accepted for one in judged] == [True, False]
    assert all(len(one.test_s) == 3 and min(one.test_s) > 0 for one in judged)


def test_the_clock_leaves_out_the_lead_in(monkeypatch):
    meter, now = Meter([]), iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(command.time, "perf_counter", lambda: next(now))
    clock = command._Clock(meter, num_uncounted=1)
    for cpu_s, test_s in ((5.0, 9.0), (5.5, 0.1), (7.0, 0.3)):
        meter.now = cpu_s
        clock.tick(Judged(accepted=True, test_s=(test_s, test_s)))
    measured = clock.round()  # from 1 s and 5 CPU s to 4 s and 7 CPU s: 2 rollouts, 4 tests
    assert measured.rollouts_per_s == pytest.approx(2 / 3)
    assert measured.tests_per_s == pytest.approx(4 / 3)
    assert measured.cpu_ms_per_test == pytest.approx(500)
    assert (measured.p50_ms, measured.p99_ms) == (pytest.approx(100), pytest.approx(300))


def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed():
    values = [float(value) for value in range(1, 1001)]
    assert (command._quantile(values, 0.5), command._quantile(values, 0.99)) == (500.0, 990.0)


def test_a_ratio_compares_within_a_round():
    assert table.ratios(make_result("a", [10.0, 60.0]), make_result("b", [20.0, 30.0])) == [0.5, 2.0]


def test_cpu_is_read_against_the_floor():
    floor = ModeResult(name="floor", kind="floor", num_programs=1, rounds=[make_round(cpu_ms_per_test=2.0)])
    mine = make_result("mine", [1.0])  # 3 ms
    assert table.cpu_in_floors(mine, [mine, floor]) == "1.50"
    assert table.cpu_in_floors(mine, [mine]) == "-"


def test_targets_are_judged_by_the_median_round_each_on_its_side():
    met = {target.what: target.met for target in table.targets([make_result("docker warm", [100.0, 500.0, 900.0])])}
    assert met["docker warm: tests/s"] is True
    low = {target.what: target.met for target in table.targets([make_result("docker warm", [100.0, 499.0, 900.0])])}
    assert low["docker warm: tests/s"] is False
    at_most = ModeResult(
        name="docker warm", kind="ours", num_programs=1, rounds=[make_round(cpu_ms_per_test=3.5, p99_ms=10.1)]
    )
    found = {target.what: target.met for target in table.targets([at_most])}
    assert (found["docker warm: CPU ms a test"], found["docker warm: p99 of a test, ms"]) == (True, False)


def test_a_mode_that_was_skipped_meets_nothing_and_misses_nothing():
    skipped = ModeResult(name="docker warm", kind="ours", num_programs=50, skipped="no Docker host")
    assert [target.met for target in table.targets([skipped])] == [None] * 3


def test_a_process_that_has_ended_is_counted():
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    with CpuMeter([]) as meter:
        before = meter.cpu_s()
        subprocess.run([sys.executable, "-I", "-c", burn], check=True)
        assert meter.cpu_s() - before >= 0.38  # /proc/stat counts in ticks of 10 ms


def test_a_process_of_somebody_else_is_not_counted_where_groups_work():
    burn = "import time\nwhile time.process_time() < 5: pass"
    with subprocess.Popen([sys.executable, "-I", "-c", burn]) as other, CpuMeter([]) as meter:
        if "whole machine" in meter.how:
            other.kill()
            pytest.skip(f"this machine counts {meter.how}")
        before = meter.cpu_s()
        time.sleep(1.0)
        counted = meter.cpu_s() - before
        other.kill()
    assert counted < 0.1


def test_the_script_measures_and_writes_it_down(root, tmp_path):
    out, picture = tmp_path / "judge.json", tmp_path / "judge.png"
    only = f"local,{RATIO_TO},bare,floor"
    command = [sys.executable, "scripts/bench.py", "judge", "--quick", "--floor", "--only", only]
    command += ["--out", str(out), "--plot", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    measured = {mode["name"]: mode for mode in content["modes"]}
    assert set(measured) == {
        "local warm", "local reuse=10", "local fresh", RATIO_TO, "bare in-process", "floor: fork + program"
    }  # fmt: skip
    assert all(mode["skipped"] is None and mode["median"]["cpu_ms_per_test"] > 0 for mode in measured.values())
    assert measured[RATIO_TO]["median"]["ratio"] == 1.0
    assert {"date", "commit", "hardware", "versions", "engine", "cpu_counted", "settings"} <= set(content)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mode_without_its_backend_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    out = tmp_path / "judge.json"
    assert bench("--quick", "--only", "docker warm,crun warm", "--out", str(out)) == 0
    modes = json.loads(out.read_text())["modes"]
    assert [mode["name"] for mode in modes] == ["docker warm", "docker crun warm"]
    assert all("no Docker" in mode["skipped"] for mode in modes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--only", "nothing"], "the modes are docker warm"),
        (["--out", "/does/not/exist/judge.json"], "make it first"),
    ],
)
def test_a_mistake_costs_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as error:
        bench(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_every_mode_that_this_machine_has_is_measured(tmp_path):
    out = tmp_path / "judge.json"
    assert bench("--quick", "--floor", "--out", str(out)) == 0
    modes = json.loads(out.read_text())["modes"]
    expected = make_modes(image="", num_workers=2, num_programs=2, floor=True)
    assert [mode["name"] for mode in modes] == [mode.name for mode in expected]
    assert [mode for mode in modes if (mode["skipped"] or "").startswith("failed")] == []
