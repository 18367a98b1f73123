"""The roofline against numbers worked out by hand."""

import math

import pytest

from nouscoder_jax.planning import costs, rollouts
from nouscoder_jax.planning.hlo import Collective
from nouscoder_jax.planning.sizes import executed_flops, forward_flops, model_flops


def cost_of(dapo, a, fleet, collectives):
    return costs.update_cost(a, dapo, fleet, collectives, rows_per_gpu=1, sequence_tokens=16000.0)


def gather(*, in_open_loop, group=tuple(range(16))):
    return Collective(
        kind="all-gather", dtype="bf16", bytes=16 * 10**9, largest_bytes=16 * 10**9, group=group, count=2,
        in_open_loop=in_open_loop,
    )  # fmt: skip


def test_compute_is_flops_over_the_stated_shares_of_the_peak(dapo, qwen3_14b, b200_fleet):
    cost = cost_of(dapo, qwen3_14b, b200_fleet, [])
    executed = executed_flops(
        forward_flops(qwen3_14b, num_tokens=dapo.experience.row_tokens, sequence_tokens=16000.0), remat="layer"
    )
    by_hand = (executed.layers + executed.logits) / (0.6 * 2250e12) + executed.attention / (0.35 * 2250e12)
    assert cost.compute_s == pytest.approx(by_hand)
    assert cost.mfu == pytest.approx(cost.model_flops.total / (by_hand * 2250e12))


def test_a_collective_takes_its_bytes_over_the_slowest_link(dapo, qwen3_14b, b200_fleet):
    cost = cost_of(dapo, qwen3_14b, b200_fleet, [gather(in_open_loop=True)])
    # twice 15/16 of 16 GB, over eight 50 GB/s cards at 80 %
    assert cost.looped_collectives_s == pytest.approx(2 * 15e9 / 320e9)
    assert cost.micro_batch_s == pytest.approx(cost.compute_s + cost.looped_collectives_s)
    assert cost.overlapped_micro_batch_s == cost.compute_s


def test_what_stands_outside_the_loop_is_paid_once_an_update(dapo, qwen3_14b, b200_fleet):
    bare = cost_of(dapo, qwen3_14b, b200_fleet, [])
    cost = cost_of(dapo, qwen3_14b, b200_fleet, [gather(in_open_loop=False)])
    assert cost.once_s - bare.once_s == pytest.approx(2 * 15e9 / 320e9)
    # AdamW: 28 bytes of each of 14.8e9 / 16 parameters
    assert bare.once_s == pytest.approx(14_768_307_200 / 16 * 28 / (0.8 * b200_fleet.gpu.memory_bandwidth))


def test_a_step_trains_all_micro_batches_and_recomputes_logprobs_first(dapo, qwen3_14b, b200_fleet):
    cost = cost_of(dapo, qwen3_14b, b200_fleet, [])
    plain = cost.training_s(micro_batches=5, updates=2, recomputed=False)
    assert plain == pytest.approx(10 * cost.micro_batch_s + 2 * cost.once_s)
    with_logprobs = cost.training_s(micro_batches=5, updates=2, recomputed=True)
    assert with_logprobs - plain == pytest.approx(10 * cost.forward_s)


def test_the_workload_of_dapo_by_hand(dapo):
    workload = costs.make_workload(dapo, completion_tokens=15360, kept_groups=0.5)
    assert (workload.trained_sequences, workload.generated_sequences) == (768, 1536)
    told = " ".join(rollouts.assumptions(workload, dapo))
    assert "1,536 completions are generated a step" in told and "768 of them are trained on" in told
    tokens = 768 * (600 + 15360)
    assert (workload.rows - 1) * dapo.experience.row_tokens * 0.9 < tokens
    assert tokens <= workload.rows * dapo.experience.row_tokens * 0.9
    assert workload.micro_batches(48) == math.ceil(workload.rows / 2 / 48)


def test_mfu_counts_no_recomputation(dapo, qwen3_14b, b200_fleet):
    forward = forward_flops(qwen3_14b, num_tokens=dapo.experience.row_tokens, sequence_tokens=16000.0)
    assert cost_of(dapo, qwen3_14b, b200_fleet, []).model_flops == model_flops(forward)
