"""Engines and placements."""

import dataclasses
import shlex

import pytest
from small import change

from nouscoder_jax import cli
from nouscoder_jax.planning import commands, costs, rollouts
from nouscoder_jax.planning.fleet import Fleet, find_gpu
from nouscoder_jax.planning.meshes import find_meshes, peak_on


@pytest.fixture
def workload(dapo):
    return costs.make_workload(dapo, completion_tokens=15360, kept_groups=0.5)


def engine(a, gpu_name, workload, *, gb, num_slots=16, in_flight=1000.0, max_tensor=8):
    return rollouts.find_engine(
        a, find_gpu(gpu_name), bytes_per_gpu=gb * 1e9, workload=workload, num_slots=num_slots,
        in_flight_per_gpu=in_flight, longest_tokens=32768, max_tensor=max_tensor,
    )  # fmt: skip


def test_a_decoding_step_reads_the_weights_and_every_cache_once(qwen3_14b, workload):
    found = engine(qwen3_14b, "b200", workload, gb=180)
    read = 2 * 14_768_307_200 + 16 * (600 + 7680) * 163_840
    assert (found.tensor, found.sequences) == (1, 16)
    assert found.decode_step_s == pytest.approx(read / (0.6 * find_gpu("b200").memory_bandwidth) + 0.002)
    assert found.tokens_per_s == pytest.approx(16 / found.decode_step_s)


def test_slots_what_is_drawn_and_the_cache_bound_the_sequences(qwen3_14b, workload):
    room = int((60e9 - 3e9 - 2 * 14_768_307_200) / ((600 + 7680) * 163_840))
    for num_slots, in_flight, sequences in ((1000, 1000.0, room), (9, 1000.0, 9), (1000, 4.5, 5)):
        found = engine(qwen3_14b, "b200", workload, gb=60, num_slots=num_slots, in_flight=in_flight)
        assert found.sequences == sequences


def test_what_may_be_drawn_is_the_batch_and_those_ahead_of_it(dapo, workload):
    assert rollouts.most_in_flight(dapo, workload) == 1536 * (2 + 1)


def test_an_engine_takes_more_gpus_where_one_has_no_room(qwen3_14b, workload):
    assert engine(qwen3_14b, "h100", workload, gb=25).tensor == 2
    assert engine(qwen3_14b, "h100", workload, gb=25, max_tensor=1) is None


def placed(dapo, a, fleet, workload, *, peak_bytes):
    mesh = find_meshes(a, fleet.num_gpus)[0]
    cost = costs.update_cost(a, dapo, fleet, [], rows_per_gpu=1, sequence_tokens=16000.0)

    def trainer_on(num_gpus):
        own = find_meshes(a, num_gpus)[0]
        return own, peak_on(a, own, measured=mesh, peak_bytes=peak_bytes)

    return rollouts.placements(a, dapo, fleet, workload, cost, trainer_on=trainer_on, rows_per_gpu=1)


def test_48_gpus_are_split_in_whole_machines_and_shared(dapo, qwen3_14b, b200_fleet, workload):
    found = placed(dapo, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9)
    splits = {(one.train_gpus, one.generate_gpus) for one in found if one.kind == "split"}
    assert (16, 32) in splits and all(train % 8 == 0 and train + generate == 48 for train, generate in splits)
    assert [one.train_gpus for one in found if one.kind == "colocated"] == [48]
    assert found == sorted(found, key=lambda one: one.step_s)


def test_a_split_takes_the_slower_side_and_on_policy_both(dapo, qwen3_14b, b200_fleet, workload):
    for staleness, together in ((2, max), (0, lambda train, generate: train + generate)):
        config = change(dapo, rollout={"max_staleness": staleness})
        for one in placed(config, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9):
            if one.kind == "split":
                assert one.step_s == pytest.approx(together(one.train_s, one.generate_s) + one.reload_s)


def test_colocated_shares_of_memory_are_named_and_fit(dapo, qwen3_14b, b200_fleet, workload):
    found = placed(dapo, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9)
    (shared,) = [one for one in found if one.kind == "colocated"]
    assert shared.trainer_memory_fraction == pytest.approx(40e9 / b200_fleet.gpu.memory_bytes)
    assert shared.trainer_memory_fraction + shared.engine_memory_fraction == pytest.approx(0.94)
    assert shared.step_s == pytest.approx(shared.train_s + shared.generate_s + shared.reload_s)
    on_policy = change(dapo, rollout={"max_staleness": 0})
    same = placed(on_policy, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9)
    assert dataclasses.replace(shared, planned=on_policy) in [
        dataclasses.replace(one, planned=on_policy) for one in same
    ]


def test_a_trainer_that_leaves_no_room_is_not_colocated(dapo, qwen3_14b, workload):
    fleet = Fleet(gpu=find_gpu("h100"), num_gpus=8)
    found = placed(dapo, qwen3_14b, fleet, workload, peak_bytes=int(79e9))
    assert [one for one in found if one.kind == "colocated"] == []


def test_on_policy_the_longest_completion_is_waited_for(dapo, qwen3_14b, b200_fleet, workload):
    found = engine(qwen3_14b, "b200", workload, gb=180)
    config = change(dapo, rollout={"max_staleness": 0})
    few = dataclasses.replace(workload, generated_sequences=8)
    waited = rollouts.generation_s(qwen3_14b, config, b200_fleet.gpu, few, found, num_gpus=48)
    assert waited > 30720 * 2 * 14_768_307_200 / b200_fleet.gpu.memory_bandwidth


def test_every_placement_is_a_config_that_the_loop_takes_and_its_options_make_it(dapo, qwen3_14b, b200_fleet, workload):
    found = placed(dapo, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9)
    assert {one.kind for one in found} == {"split", "colocated"}
    for one in found:
        options = shlex.split(" ".join(cli.options_between(dapo, one.planned)))
        assert cli.apply_overrides(dapo, options) == one.planned
        mesh, server = one.planned.mesh, one.planned.server
        assert mesh.num_devices == one.train_gpus == one.planned.min_gpus and mesh.num_processes == one.train_gpus // 8
        assert one.planned.experience.rows_per_micro_batch == mesh.num_row_shards  # one row a GPU
        assert server.placement == one.kind and server.num_servers * server.tensor == 8 == 8 * one.engine.tensor
        if one.kind == "colocated":
            assert one.planned.rollout.max_staleness == 0
            assert one.trainer_memory_fraction <= server.trainer_memory_fraction
            assert server.trainer_memory_fraction + server.memory_fraction <= 0.94 + 1e-9


def test_what_the_loop_refuses_is_not_proposed(dapo, qwen3_14b, b200_fleet, workload, monkeypatch):
    refused = change(dapo, server={"trainer_memory_fraction": 0.5})

    def placed_or_refused(config, *, kind, **rest):
        if kind == "colocated":
            raise ValueError("not on one's own GPUs")
        return config

    monkeypatch.setattr(commands, "placed", placed_or_refused)
    found = placed(refused, qwen3_14b, b200_fleet, workload, peak_bytes=40 * 10**9)
    assert {one.kind for one in found} == {"split"}
