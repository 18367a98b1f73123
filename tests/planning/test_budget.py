"""The two fleets of the note, compiled for real: bytes a GPU and collectives, held to a budget file.

After a change that is meant to move them: UPDATE_BUDGET=1 python -m pytest tests/planning/test_budget.py -m slow
"""

import json
import os
from pathlib import Path

import pytest
from small import change

from nouscoder_jax.planning.fleet import Fleet, find_gpu

BUDGET = Path(__file__).with_name("budget.json")
MEMORY_SLACK = 0.02
FLEETS = {"48 b200, 40960 tokens": ("b200", 48, 40960, 40e9), "8 h100, 32768 tokens": ("h100", 8, 32768, 52e9)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=FLEETS)
def fleet_name(request):
    return request.param


@pytest.fixture(scope="module")
def program(fleet_name, dapo, qwen3_14b, gpu_compiler):
    from nouscoder_jax.planning import compile as compiling
    from nouscoder_jax.planning.meshes import choose_mesh

    name, num_gpus, row_tokens, _ = FLEETS[fleet_name]
    fleet = Fleet(gpu=find_gpu(name), num_gpus=num_gpus)
    mesh = choose_mesh(qwen3_14b, dapo.mesh, num_gpus)
    config = compiling.with_size(with_kernel(dapo), mesh, row_tokens=row_tokens, rows_per_gpu=1)
    return compiling.compile_update(config, qwen3_14b, devices=compiling.gpu_devices(fleet), num_micro_batches=4)


def with_kernel(config):
    """Long rows want attention that keeps no scores, whatever the config says today."""
    return change(config, model={"attention": "pallas"})


def figures(program) -> dict:
    from nouscoder_jax.planning.hlo import by_kind

    counts = {kind: found["count"] for kind, found in by_kind(program.collectives).items()}
    fields = ("argument_bytes", "temp_bytes", "peak_bytes")
    return {field: getattr(program, field) for field in fields} | {"collectives": counts}


def test_memory_and_collectives_stay_within_the_budget(fleet_name, program):
    found = figures(program)
    budgets = json.loads(BUDGET.read_text()) if BUDGET.exists() else {}
    if os.environ.get("UPDATE_BUDGET"):
        BUDGET.write_text(json.dumps(budgets | {fleet_name: found}, indent=2) + "\n")
        return
    budget = budgets[fleet_name]
    for field in ("argument_bytes", "temp_bytes", "peak_bytes"):
        assert found[field] <= budget[field] * (1 + MEMORY_SLACK), f"{field}: {found[field]:,}, was {budget[field]:,}"
    added = {kind: n for kind, n in found["collectives"].items() if n > budget["collectives"].get(kind, 0)}
    assert not added, f"more collectives than the budget's {budget['collectives']}: {added}"


def test_the_peak_is_below_the_goal(fleet_name, program):
    assert program.peak_bytes <= FLEETS[fleet_name][3]


def test_every_large_parameter_is_sharded(fleet_name, program, qwen3_14b):
    from nouscoder_jax.planning.sizes import parameter_count

    _, num_gpus, row_tokens, _ = FLEETS[fleet_name]
    shards = 16 if num_gpus == 48 else 8
    batch = 4 * row_tokens * 30
    assert program.argument_bytes <= 12 * parameter_count(qwen3_14b) / shards * 1.002 + batch


def test_no_collective_brings_a_whole_gradient_to_every_gpu(program, qwen3_14b):
    from nouscoder_jax.planning.hlo import largest_all_reduce

    widest = largest_all_reduce(program.collectives)
    smallest_matrix = 4 * qwen3_14b.hidden_size * qwen3_14b.num_kv_heads * qwen3_14b.head_dim
    everyone = [one for one in program.collectives if one.kind == "all-reduce" and len(one.group) > 3]
    assert all(one.largest_bytes < smallest_matrix for one in everyone), everyone
    # Over data, three replicas sum shards: the largest is the stacked MLP matrices' sixteenth.
    largest_shard = 4 * qwen3_14b.num_layers * qwen3_14b.hidden_size * qwen3_14b.intermediate_size / 16
    assert widest is None or widest.largest_bytes <= largest_shard


def test_gradients_leave_by_reduce_scatter_in_float32(program):
    scattered = [one for one in program.collectives if one.kind == "reduce-scatter"]
    assert scattered and {one.dtype for one in scattered if one.largest_bytes > 10**6} == {"f32"}


def test_a_longer_row_still_fits_eight_h100(dapo, qwen3_14b, gpu_compiler):
    from nouscoder_jax.planning import compile as compiling
    from nouscoder_jax.planning.meshes import find_meshes

    fleet = Fleet(gpu=find_gpu("h100"), num_gpus=8)
    config = compiling.with_size(with_kernel(dapo), find_meshes(qwen3_14b, 8)[0], row_tokens=57344, rows_per_gpu=1)
    program = compiling.compile_update(config, qwen3_14b, devices=compiling.gpu_devices(fleet), num_micro_batches=4)
    assert program.peak_bytes <= fleet.gpu.usable_bytes
