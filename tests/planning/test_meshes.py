"""Meshes that the model divides into, and what they hold."""

import pytest
from small import make_mesh_config

from nouscoder_jax.config import UserError
from nouscoder_jax.planning import meshes


@pytest.mark.parametrize(("num_gpus", "best"), [(48, (3, 16)), (24, (3, 8)), (8, (1, 8)), (64, (1, 64)), (7, (7, 1))])
def test_what_does_not_divide_goes_on_data_and_fsdp_takes_the_rest(qwen3_14b, num_gpus, best):
    first = meshes.find_meshes(qwen3_14b, num_gpus)[0]
    assert (first.data, first.fsdp, first.tensor) == (*best, 1)


def test_meshes_come_with_the_least_memory_first(qwen3_14b):
    held = [meshes.state_bytes(qwen3_14b, one) for one in meshes.find_meshes(qwen3_14b, 48)]
    assert held == sorted(held) and len(held) > 3


def test_a_wanted_mesh_that_does_not_divide_is_refused_with_those_that_do(qwen3_14b):
    with pytest.raises(UserError, match="48 devices fit as data 3 x fsdp 16 x tensor 1"):
        meshes.choose_mesh(qwen3_14b, make_mesh_config(1, 48), 48)


def test_a_wanted_mesh_of_another_number_of_gpus_gives_way(qwen3_14b):
    assert meshes.choose_mesh(qwen3_14b, make_mesh_config(3, 16), 8).fsdp == 8
    assert meshes.choose_mesh(qwen3_14b, make_mesh_config(6, 8), 48) == make_mesh_config(6, 8)


def test_sixteen_bytes_a_matrix_parameter_are_shared_by_the_shards_and_norms_by_none(qwen3_14b):
    norms = 40 * (2 * 5120 + 2 * 128) + 5120
    assert meshes.state_bytes(qwen3_14b, make_mesh_config(3, 16)) == (14_768_307_200 - norms) + 16 * norms


def test_another_mesh_differs_by_its_shards(qwen3_14b):
    peak = meshes.peak_on(qwen3_14b, make_mesh_config(1, 8), measured=make_mesh_config(3, 16), peak_bytes=40 * 10**9)
    assert peak == pytest.approx(40 * 10**9 + 14_768_307_200, rel=1e-3)
