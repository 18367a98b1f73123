"""`bench.py update`: all contenders get the same work, and none is compared that computes something else."""

import argparse
import json
import os
import sys

import numpy as np
import pytest

from nouscoder_jax.bench import contenders
from nouscoder_jax.bench.contenders import Plan, Result, Turn
from nouscoder_jax.bench.update import command, gpu, peers, workload
from nouscoder_jax.bench.worker import Worker, WorkerError
from nouscoder_jax.config import UserError
from nouscoder_jax.experience.packing import pack
from nouscoder_jax.planning.sizes import parameter_count

FAKE = """
import json, sys
print("a library says hello")
print(json.dumps({"ready": {"versions": {}}}), flush=True)
for line in sys.stdin:
    if json.loads(line)["do"] == "extras":
        print(json.dumps({"pack_s": 0.01, "loss_s": 0.001}), flush=True)
    elif LEFT == 0:
        sys.exit("out of luck")
    else:
        LEFT -= 1
        figures = {"loss": LOSS, "grad_norm": 2.0, "num_tokens": 1000}
        print(json.dumps({"wall_s": WALL, "cpu_s": 2 * WALL, **figures}), flush=True)
"""


def fake(**values) -> list[str]:
    """The command of a contender that answers with given numbers."""
    lines = [f"{name} = {value}" for name, value in (dict(LEFT=99, WALL=1.0, LOSS=0.5) | values).items()]
    return [sys.executable, "-c", "\n".join(lines) + FAKE]


def result(name, speeds, *, loss=0.5, grad_norm=2.0) -> Result:
    figures = {"num_tokens": 1000, "loss": loss, "grad_norm": grad_norm}
    turns = [Turn(wall_s=1000 / speed, cpu_s=2000 / speed, **figures) for speed in speeds]
    return Result(name=name, task="update", turns=turns, warm_up=[turns[0]])


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
        workload.make_config(workload.SETTINGS | {"row_tokens": 1024, "rows_per_micro_batch": 4}),
        gpu.make_config(gpu.QUICK_CASES[0], attention="reference"),
    ],
)
def test_no_limit_on_drift_keeps_updates_of_made_up_logprobs_from_being_applied(config):
    assert (config.loss.max_drift_mean, config.loss.max_drift) == (0.0, 0.0)


def test_a_child_answers_requests_and_what_its_libraries_print_is_no_answer(tmp_path):
    with Worker("trl", fake(), tmp_path, {}) as child:
        assert child.wait_ready() == {"versions": {}}
        assert child.ask("update") == {"wall_s": 1.0, "cpu_s": 2.0, "loss": 0.5, "grad_norm": 2.0, "num_tokens": 1000}
        assert child.ask("extras")["pack_s"] == 0.01


def test_a_child_that_dies_is_named_with_its_last_words(tmp_path):
    with Worker("trl", fake(LEFT=0), tmp_path, {}) as child:
        child.wait_ready()
        with pytest.raises(WorkerError, match="trl ended with 1: out of luck"):
            child.ask("update")


def test_what_a_child_serves_is_answered_by_name_with_arguments_and_timed(tmp_path):
    code = """
from nouscoder_jax.bench.worker import serve, timed
def make(folder):
    print("a library says hello")
    return {"folder": folder.name}, {"add": lambda a, b: timed(lambda: {"sum": a + b})}
serve(make)"""
    with Worker("one", [sys.executable, "-c", code], tmp_path, {}) as child:
        assert child.wait_ready() == {"folder": tmp_path.name}
        answer = child.ask("add", a=1, b=2)
        assert answer["sum"] == 3 and answer["wall_s"] >= 0 and answer["cpu_s"] >= 0
        with pytest.raises(WorkerError, match="KeyError: 'subtract'"):
            child.ask("subtract")


def measure(tmp_path, **commands):
    plans = [
        Plan(
            name=name,
            command=tuple(words),
            num_threads=1,
            tasks=("update",),
            missing="" if words else "no environment",
            at_the_end="extras" if name == "ours" else "",
        )
        for name, words in commands.items()
    ]
    return contenders.measure_all(plans, tmp_path, rounds=2, warm_up=2)


def test_every_contender_takes_its_turn_in_every_round(tmp_path):
    results, said = measure(tmp_path, ours=fake(), trl=fake(WALL=4.0))
    assert [(len(one.warm_up), len(one.turns)) for one in results] == [(2, 2), (2, 2)]
    assert contenders.times(results[0], results[1]) == [4.0, 4.0]
    assert said == {"extras": {"pack_s": 0.01, "loss_s": 0.001}}


def test_a_contender_that_fails_is_skipped_and_the_others_are_measured(tmp_path):
    results, _ = measure(tmp_path, ours=fake(), trl=fake(LEFT=1), tunix=())
    assert "out of luck" in results[1].skipped
    assert results[2].skipped == "no environment"
    assert len(results[0].turns) == 2
    assert [target.met for target in command.report(results, {}, {})[0].targets] == [None, None]


def test_without_an_environment_of_the_peers_ours_runs_alone():
    missing = {plan.name: plan.missing for plan in command._plans(options())}
    assert missing["ours"] == "" and "--peers-env" in missing["trl"] and "--peers-env" in missing["tunix"]


@pytest.mark.parametrize(("change", "same"), [({}, True), ({"loss": 0.5002}, False), ({"grad_norm": 2.001}, False)])
def test_losses_and_gradient_norms_more_than_1e_4_apart_are_not_the_same(change, same):
    found, all_same = command.report([result("ours", [1000]), result("trl", [500], **change)], {}, {})
    assert all_same is same
    assert [line for line in found.notes if line.startswith("same: " if same else "NOT THE SAME: ")]


def test_targets_are_2_5_times_trl_and_4_5_times_tunix_in_the_middle_round():
    results = [result("ours", [1000, 900, 5000]), result("trl", [400, 400, 400]), result("tunix", [250, 250, 250])]
    found = command.report(results, {}, {})[0].targets
    assert [(one.goal, one.got, one.met) for one in found] == [(2.5, 2.5, True), (4.5, 4.0, False)]


def test_results_are_written_with_every_round_and_what_was_skipped(tmp_path):
    results = [
        result("ours", [1000, 900]),
        result("trl", [500, 450]),
        Result(name="tunix", task="update", skipped="no"),
    ]
    report, _ = command.report(results, {}, {})
    report.write(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert [len(one.get("rounds", [])) for one in content["contenders"]] == [2, 2, 0]
    assert content["contenders"][1]["median"]["ours_is_times"] == 2.0
    assert content["contenders"][1]["largest_loss_difference"] == 0.0
    assert [target["met"] for target in content["targets"]] == [False, None]


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--only", "verl"), ("--row-tokens", "255")])
def test_options_that_cannot_be_are_refused(arguments):
    with pytest.raises(UserError):
        command.run(options(*arguments))


def test_a_folder_that_is_no_environment_is_not_filled(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="no bin/python"):
        peers.peers_python(tmp_path)


def test_without_a_gpu_the_gpu_bench_is_refused():
    with pytest.raises(UserError, match="found only cpu"):
        command.run(options("--gpu"))


def test_the_gpu_cases_update_as_many_tokens_at_8k_as_at_32k():
    assert [case.num_tokens for case in gpu.CASES] == [65536, 65536]


def test_mfu_is_flops_over_the_time_of_the_middle_round_and_the_peak():
    measured = gpu.Measured(
        case=gpu.CASES[0], attention="pallas", compile_s=1.0, wall_s=[9.0, 2.0, 1.0], flops=8e14, peak_flops=1e15
    )
    assert (measured.tflops_per_s, measured.mfu) == (400.0, 0.4)


@pytest.mark.slow
def test_the_gpu_bench_runs_on_a_cpu_with_a_tiny_model(tmp_path, capsys):
    assert command.run(options("--gpu", "--quick", "--out", str(tmp_path / "a.json"))) == 0
    (case,) = json.loads((tmp_path / "a.json").read_text())["cases"]
    assert case["tflops_per_s"] >= 0 and case["flops"] > 0


@pytest.mark.slow
def test_trl_and_tunix_compute_our_loss(tmp_path):
    python = os.environ.get("NOUSCODER_PEERS_PYTHON", "")
    if not python:
        pytest.skip("NOUSCODER_PEERS_PYTHON names no Python with trl and google-tunix (bench.py update --peers-env)")
    arguments = ["--quick", "--cpu", "--peers-env", os.path.dirname(os.path.dirname(python))]
    assert command.run(options(*arguments, "--out", str(tmp_path / "a.json"))) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert [one["skipped"] for one in content["contenders"]] == [None, None, None]
    assert max(one["largest_loss_difference"] for one in content["contenders"][1:]) <= 1e-5
