"""`bench.py generate`: all contenders get the same work, none that does less or computes another model is compared."""

import argparse
import json
import os
import sys

import numpy as np
import pytest

from nouscoder_jax.bench.contenders import Plan, Result, Turn, measure_all, times
from nouscoder_jax.bench.generate import command, worker, workload
from nouscoder_jax.bench.generate.worker import Generated
from nouscoder_jax.config import UserError

FAKE = """
import json, sys
print("a library says hello")
print(json.dumps({"ready": {"versions": {}}}), flush=True)
for line in sys.stdin:
    if json.loads(line)["do"] == "check":
        print(json.dumps({"ours": 2e-6}), flush=True)
    elif LEFT == 0:
        sys.exit("out of luck")
    else:
        LEFT -= 1
        print(json.dumps({"wall_s": WALL, "cpu_s": 2 * WALL, "num_tokens": 1000}), flush=True)
open(ENDED, "w").close()
"""


def fake(name, *, tasks=("uniform",), missing="", at_the_end="", **values) -> Plan:
    """A contender that answers with given numbers."""
    values = {"LEFT": 99, "WALL": 1.0, "ENDED": os.devnull} | values
    lines = [f"{word} = {value!r}" for word, value in values.items()]
    words = (sys.executable, "-c", "\n".join(lines) + FAKE)
    return Plan(name=name, command=words, num_threads=1, tasks=tasks, missing=missing, at_the_end=at_the_end)


def result(name, speeds, *, task="uniform", cpu=2.0) -> Result:
    turns = [Turn(wall_s=1000 / speed, cpu_s=cpu * 1000 / speed, num_tokens=1000) for speed in speeds]
    return Result(name=name, task=task, turns=turns, warm_up=turns[:1])


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return command.run(parser.parse_args(arguments))


def test_uniform_is_32_sequences_of_16_and_128_tokens():
    requests = workload.uniform({"vocab_size": 4096, "quick": False}, turn=1)
    assert [(len(one.prompt), one.num_tokens) for one in requests] == [(16, 128)] * 32


def test_a_turn_repeats_and_no_two_turns_share_a_prompt():
    settings = {"vocab_size": 4096, "quick": False}
    for draw in (workload.uniform, workload.long_tailed):
        assert draw(settings, turn=3) == draw(settings, turn=3)
        assert not {one.prompt for one in draw(settings, turn=3)} & {one.prompt for one in draw(settings, turn=4)}


def test_long_tailed_lengths_have_the_mean_of_the_uniform_ones_and_a_long_tail():
    lengths = np.asarray(workload.long_tailed_lengths(256))
    assert abs(lengths.mean() - 128) < 10
    assert np.median(lengths) < 115 and lengths.max() > 3 * 128 and lengths.min() < 32
    assert lengths.max() <= workload.LONGEST_TOKENS


def test_a_contender_that_gives_fewer_tokens_or_logprobs_is_no_contender():
    (request, *_) = workload.uniform({"vocab_size": 64, "quick": True}, turn=0)
    worker._check("x", [request], [Generated([1] * 16, [0.0] * 16)])
    for ids, logprobs in ((15, 16), (16, 15), (15, 15), (17, 17)):
        with pytest.raises(SystemExit, match="does less"):
            worker._check("x", [request], [Generated([1] * ids, [0.0] * logprobs)])


def test_every_contender_does_every_task_in_every_round(tmp_path):
    plans = [fake("ours", tasks=("uniform", "long_tailed")), fake("transformers", WALL=4.0, at_the_end="check")]
    results, said = measure_all(plans, tmp_path, rounds=2, warm_up=1)
    found = [(one.name, one.task, len(one.warm_up), len(one.turns)) for one in results]
    assert found == [("ours", "uniform", 1, 2), ("ours", "long_tailed", 1, 2), ("transformers", "uniform", 1, 2)]
    assert times(results[0], results[2]) == [4.0, 4.0]
    assert said == {"check": {"ours": 2e-6}}


def test_a_contender_that_fails_is_skipped_and_the_others_are_measured(tmp_path):
    plans = [fake("ours"), fake("transformers", LEFT=2, at_the_end="check"), fake("sglang", missing="no Python")]
    results, said = measure_all(plans, tmp_path, rounds=2, warm_up=1)
    assert len(results[0].turns) == 2
    assert "out of luck" in results[1].skipped and results[2].skipped == "no Python"
    assert said == {} and command.targets(results)[0].met is None


def test_a_contender_ends_by_itself_before_it_is_killed(tmp_path):
    measure_all([fake("sglang", ENDED=str(tmp_path / "ended"))], tmp_path, rounds=1, warm_up=1)
    assert (tmp_path / "ended").exists()


def test_the_target_is_judged_against_the_faster_of_transformers():
    results = [result("ours", [1000, 900, 5000]), result("transformers", [400] * 3)]
    assert command.targets(results)[0].met
    (target, _) = command.targets([*results, result("transformers-1-thread", [600, 600, 600], cpu=1.0)])
    assert (target.got, target.met) == (pytest.approx(5 / 3), False)
    assert target.by_cpu == pytest.approx(5 / 6)


@pytest.mark.parametrize(("speed", "met"), [(801, True), (799, False)])
def test_long_tailed_lengths_must_keep_four_fifths_of_the_speed(speed, met):
    results = [result("ours", [1000] * 3), result("ours", [speed] * 3, task="long_tailed")]
    assert command.targets(results)[1].met is met


def test_a_bench_whose_logprobs_are_not_the_model_s_fails():
    assert command.report([], {"ours": 1e-5, "sglang": 1e-5}, {})[1]
    found, same = command.report([], {"ours": 1e-5, "sglang": 2e-3}, {})
    assert not same and found.notes[1].startswith("NOT THE SAME: sglang")


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--threads", "0"), ("--only", "vllm")])
def test_options_that_cannot_be_are_refused(arguments):
    with pytest.raises(UserError):
        bench(*arguments)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_logprobs_are_those_of_transformers(tmp_path):
    pytest.importorskip("torch", reason="the check is a forward pass of transformers")
    out = tmp_path / "a.json"
    assert bench("--quick", "--only", "ours,transformers-1-thread", "--out", str(out)) == 0
    content = json.loads(out.read_text())
    assert [one["skipped"] for one in content["contenders"]] == [None, None, None]
    assert set(content["logprob_differences"]) == {"ours", "transformers-1-thread"}
    assert max(content["logprob_differences"].values()) < 1e-4
