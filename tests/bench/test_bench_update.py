"""`bench.py update`: all contenders get the same work, and none is compared that computes something else."""

import argparse
import json
import os

import numpy as np
import pytest

from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.update import command, gpu, workload
from nouscoder_jax.config import UserError
from nouscoder_jax.experience.packing import pack
from nouscoder_jax.planning.sizes import parameter_count


def contender(name, speeds, *, loss=0.5, grad_norm=2.0):
    figures = {"wall_s": 1.0, "cpu_s_per_work": 1.0, "loss": loss, "grad_norm": grad_norm}
    found = [{"speed": speed} | figures for speed in speeds]
    return Contender(name=name, turn=dict, rounds=found, warm_up=found[:1])


def options(*arguments):
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return parser.parse_args(arguments)


def test_the_batch_is_128_sequences_of_24_to_256_tokens_and_12_thousand_tokens():
    batch = workload.make_batch(128, vocab_size=4096, seed=0)
    num_tokens = batch.completion_mask.sum(axis=1) + workload.PROMPT_TOKENS
    assert (num_tokens.min(), num_tokens.max(), len(num_tokens)) == (24, 256, 128)
    assert abs(batch.num_real_tokens - 12_000) < 150
    assert batch.prompt_ids.size + batch.completion_ids.size == 128 * 256


def test_most_sequences_are_short_and_few_are_long():
    lengths = workload.lengths(128)
    assert np.median(lengths) < 80 < np.mean(lengths)
    assert (lengths > 200).mean() < 0.1


def test_the_model_has_about_6_million_parameters():
    assert 5.5e6 < parameter_count(workload.ARCHITECTURE) < 6.5e6


def test_the_same_seed_gives_the_same_batch_and_no_real_token_is_padding():
    first, second = (workload.make_batch(16, vocab_size=512, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(first.completion_ids > 0, first.completion_mask)


def test_packed_rows_hold_every_completion_token_with_its_logprob_and_advantage():
    batch = workload.make_batch(16, vocab_size=512, seed=0)
    packed, _ = pack(
        workload.to_experiences(batch),
        row_tokens=512,
        rows_per_micro_batch=2,
        max_experiences=16,
        packed_rows=True,
        policy_version=0,
    )
    assert (packed.segment_ids > 0).sum() == batch.num_real_tokens
    advantages = np.broadcast_to(batch.advantages[:, None], batch.completion_mask.shape)
    padded = [array[batch.completion_mask] for array in (batch.completion_ids, batch.old_logprobs, advantages)]
    rows = [array[packed.loss_mask] for array in (packed.targets, packed.behavior_logprobs, packed.advantages)]
    assert sorted(zip(*padded, strict=True)) == sorted(zip(*rows, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        workload.make_config(workload.SETTINGS),
        gpu.make_config(*gpu.QUICK_CASES[0], attention="reference"),
    ],
)
def test_no_limit_on_drift_keeps_updates_of_made_up_logprobs_from_being_applied(config):
    assert (config.loss.max_drift_mean, config.loss.max_drift) == (0.0, 0.0)


def test_without_an_environment_of_the_peers_ours_runs_alone():
    missing = {plan.name: plan.missing for plan in command.make_plans(options())}
    assert missing["ours"] == "" and "--peers-env" in missing["trl"] and "--peers-env" in missing["tunix"]


@pytest.mark.parametrize(("change", "same"), [({}, True), ({"loss": 0.5002}, False), ({"grad_norm": 2.001}, False)])
def test_losses_and_gradient_norms_more_than_1e_4_apart_are_not_the_same(change, same):
    found, all_same = command.report([contender("ours", [1000]), contender("trl", [500], **change)], {})
    assert all_same is same
    assert [line for line in found.notes if line.startswith("same: " if same else "NOT THE SAME: ")]


def test_targets_are_2_5_times_trl_and_4_5_times_tunix_in_the_middle_round():
    speeds = {"ours": [1000, 900, 5000], "trl": [400, 400, 400], "tunix": [250, 250, 250]}
    found = command.report([contender(*one) for one in speeds.items()], {})[0].targets
    assert [(one.goal, one.got, one.met) for one in found] == [(2.5, 2.5, True), (4.5, 4.0, False)]
    alone = command.report([contender("ours", [1000]), contender("trl", [])], {})[0].targets
    assert [one.met for one in alone] == [None, None]


def test_without_a_gpu_the_gpu_bench_is_refused():
    with pytest.raises(UserError, match="found only cpu"):
        command.run(options("--gpu"))


def test_the_gpu_cases_update_as_many_tokens_at_8k_as_at_32k():
    assert [tokens * rows for tokens, rows in gpu.CASES] == [32768, 32768]


def test_mfu_is_flops_over_the_time_of_the_middle_round_and_the_peak():
    rounds = [{"wall_s": 1.0, "tokens": 8, "speed": speed} for speed in (50.0, 400.0, 800.0)]
    case = Contender(name="rows of 8", turn=dict, rounds=rounds)
    assert [one.got for one in gpu.report([case], {}, peak_flops=1e15).targets] == [0.4]
    assert [one.got for one in gpu.report([case], {}, peak_flops=0.0).targets] == [None]


@pytest.mark.slow
def test_the_gpu_bench_runs_on_a_cpu_with_a_tiny_model(tmp_path):
    assert command.run(options("--gpu", "--quick", "--out", str(tmp_path / "a.json"))) == 0
    (case,) = json.loads((tmp_path / "a.json").read_text())["contenders"]
    assert case["median"]["speed"] > 0 and case["median"]["work"] > 0


@pytest.mark.slow
def test_trl_and_tunix_compute_our_loss(tmp_path):
    python = os.environ.get("NOUSCODER_PEERS_PYTHON", "")
    if not python:
        pytest.skip("NOUSCODER_PEERS_PYTHON names no Python with trl and google-tunix (bench.py update --peers-env)")
    arguments = ["--quick", "--cpu", "--peers-env", os.path.dirname(os.path.dirname(python))]
    assert command.run(options(*arguments, "--out", str(tmp_path / "a.json"))) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert [one["skipped"] for one in content["contenders"]] == ["", "", ""]
    assert max(one["losses"] for one in content["differences"].values()) <= 1e-5
