"""`bench.py generate`: all contenders get the same work, none that does less or computes another model is compared."""

import argparse
import json

import numpy as np
import pytest

from nouscoder_jax.bench.generate import command, workload
from nouscoder_jax.bench.generate.workload import Generated
from nouscoder_jax.bench.rounds import Contender

SETTINGS = {"vocab_size": 4096, "quick": False}


def contender(name, speeds):
    return Contender(name=name, turn=dict, rounds=[{"speed": speed, "cpu_s_per_work": 1.0} for speed in speeds])


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return command.run(parser.parse_args(arguments))


def test_uniform_is_32_sequences_of_16_and_128_tokens():
    requests = workload.requests(SETTINGS, "uniform", turn=1)
    assert [(len(one.prompt), one.num_tokens) for one in requests] == [(16, 128)] * 32


def test_a_turn_repeats_and_no_two_turns_share_a_prompt():
    drawn = [workload.requests(SETTINGS, task, turn=turn) for turn in (3, 4) for task in workload.TASKS]
    assert drawn[0] == workload.requests(SETTINGS, "uniform", turn=3)
    prompts = [{one.prompt for one in requests} for requests in drawn]
    assert len(set.union(*prompts)) == sum(map(len, prompts)) == 2 * (32 + 256)


def test_long_tailed_lengths_have_the_mean_of_the_uniform_ones_and_a_long_tail():
    lengths = np.asarray(workload.long_tailed_lengths(256))
    assert abs(lengths.mean() - 128) < 10
    assert np.median(lengths) < 115 and lengths.max() > 3 * 128 and lengths.min() < 32
    assert lengths.max() <= workload.LONGEST_TOKENS


def test_a_contender_that_gives_fewer_tokens_or_logprobs_is_no_contender():
    (request, *_) = workload.requests({"vocab_size": 64, "quick": True}, "uniform", turn=0)
    workload.check("x", [request], [Generated([1] * 16, [0.0] * 16)])
    for ids, logprobs in ((15, 16), (16, 15), (15, 15), (17, 17)):
        with pytest.raises(SystemExit, match="does less"):
            workload.check("x", [request], [Generated([1] * ids, [0.0] * logprobs)])


def test_the_target_is_judged_against_the_faster_of_transformers_that_ran():
    contenders = [contender("ours uniform", [1000, 900, 5000]), contender("transformers uniform", [400] * 3)]
    assert command.targets(contenders)[0].met
    (target, _) = command.targets([*contenders, contender("transformers-1-thread uniform", [600] * 3)])
    assert (target.got, target.met) == (pytest.approx(5 / 3), False)
    assert command.targets([contenders[0], contender("transformers uniform", [])])[0].met is None


@pytest.mark.parametrize(("speed", "met"), [(801, True), (799, False)])
def test_long_tailed_lengths_must_keep_four_fifths_of_the_speed(speed, met):
    contenders = [contender("ours uniform", [1000] * 3), contender("ours long_tailed", [speed] * 3)]
    assert command.targets(contenders)[1].met is met


def test_logprobs_that_are_not_the_models_are_told():
    notes = command.report([contender("ours uniform", [1])], {"ours": 1e-5, "sglang": 2e-3}, {}).notes
    assert notes[0].startswith("same: ours") and notes[1].startswith("NOT THE SAME: sglang")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_logprobs_are_those_of_transformers(tmp_path):
    pytest.importorskip("torch", reason="the check is a forward pass of transformers")
    out = tmp_path / "a.json"
    assert bench("--quick", "--only", "ours,transformers-1-thread", "--out", str(out)) == 0
    content = json.loads(out.read_text())
    assert [one["skipped"] for one in content["contenders"]] == ["", "", ""]
    assert set(content["logprob_differences"]) == {"ours", "transformers-1-thread"}
    assert max(content["logprob_differences"].values()) < 1e-4
