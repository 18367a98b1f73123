"""Meshes that Qwen3-14B fits, and the refusal of those that it does not."""

import json
from pathlib import Path

import pytest
from small import make_mesh_config

from nouscoder_jax.config import UserError
from nouscoder_jax.mesh_fit import check_mesh, fitting_meshes, nearest_meshes, shapes_of, state_bytes
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import abstract_model

CONFIGS = Path(__file__).parent / "model" / "qwen3_configs"

# Qwen3-14B by hand: 14,768,307,200 parameters, of which norms 40 * (2 * 5120 + 2 * 128) + 5120 = 424,960 are whole
# on every device; 16 bytes each. 5120 = 2^10 * 5 is what fsdp divides; 40 heads, 8 kv heads, 17408 and 151936 what
# tensor does.
NORMS = 424_960
MATRICES = 14_768_307_200 - NORMS


def by_hand(ways: int) -> int:
    return 16 * (MATRICES // ways + NORMS)


@pytest.fixture(scope="module")
def qwen3_14b():
    return shapes_of(abstract_model(Architecture.from_hf(json.loads((CONFIGS / "Qwen3-14B.json").read_text()))))


def axes(choice):
    return choice.data, choice.fsdp, choice.tensor


@pytest.mark.parametrize(
    ("num_devices", "best", "ways"),
    [
        (48, (3, 16, 1), 16),
        (8, (1, 8, 1), 8),
        (6, (3, 2, 1), 2),
        (12, (3, 4, 1), 4),
        (7, (7, 1, 1), 1),
        (40, (1, 40, 1), 40),
        (1, (1, 1, 1), 1),
    ],
)
def test_the_best_mesh_of_qwen3_14b_takes_the_bytes_worked_out_by_hand(num_devices, best, ways, qwen3_14b):
    choice = fitting_meshes(qwen3_14b, num_devices)[0]
    assert axes(choice) == best
    assert choice.state_bytes == by_hand(ways)


def test_16_ways_take_14_8_gb_a_device(qwen3_14b):
    assert state_bytes(qwen3_14b, fsdp=16, tensor=1) == 14_774_681_600


def test_meshes_come_by_memory_then_by_less_tensor(qwen3_14b):
    meshes = fitting_meshes(qwen3_14b, 8)
    # four ways to split 8 ways, three to split 4 ways, two to split 2 ways, and 8 replicas
    assert [axes(choice) for choice in meshes] == [
        (1, 8, 1), (1, 4, 2), (1, 2, 4), (1, 1, 8),
        (2, 4, 1), (2, 2, 2), (2, 1, 4),
        (4, 2, 1), (4, 1, 2),
        (8, 1, 1),
    ]  # fmt: skip


def test_no_mesh_splits_qwen3_14b_by_three(qwen3_14b):
    splits = {
        choice.fsdp * choice.tensor for number in (3, 6, 12, 24, 48) for choice in fitting_meshes(qwen3_14b, number)
    }
    assert not [split for split in splits if split % 3 == 0]


@pytest.mark.parametrize("fitting", [(3, 16, 1), (1, 8, 1), (3, 8, 2), (1, 1, 8), (48, 1, 1)])
def test_a_mesh_that_fits_passes(fitting, qwen3_14b):
    check_mesh(make_mesh_config(*fitting), qwen3_14b)


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        # what fits splits 1, 2, 4, 5, 8, 10, 16, 20, 32, 40 ... ways; 60 is the first number after 48 with more than 16
        (
            (1, 48, 1),
            [
                "48 devices fit as data 3 x fsdp 16 x tensor 1 (14.8 GB a device), data 3 x fsdp 8 x tensor 2 (14.8 GB",
                "40 as data 1 x fsdp 40 x tensor 1 (5.9 GB a device); 60 as data 3 x fsdp 20 x tensor 1 (11.8 GB",
            ],
        ),
        ((1, 6, 1), ["data 3 x fsdp 2 x tensor 1 (118.1 GB a device)", "5 as data 1 x fsdp 5 x tensor 1 (47.3 GB"]),
        (
            (1, 12, 1),
            [
                "data 3 x fsdp 4 x tensor 1 (59.1 GB",
                "10 as data 1 x fsdp 10 x tensor 1 (23.6 GB",
                "15 as data 3 x fsdp 5",
            ],
        ),
        ((1, 7, 1), ["data 7 x fsdp 1 x tensor 1 (236.3 GB", "6 as data 3 x fsdp 2", "8 as data 1 x fsdp 8"]),
        ((1, 2, 3), ["data 3 x fsdp 2 x tensor 1 (118.1 GB a device)"]),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_the_nearest_that_do(refused, named, qwen3_14b):
    with pytest.raises(UserError) as error:
        check_mesh(make_mesh_config(*refused), qwen3_14b)
    for words in named:
        assert words in str(error.value)


def test_the_refusal_names_the_first_dimension_that_does_not_divide(qwen3_14b):
    with pytest.raises(UserError, match=r"mesh\.fsdp = 48 does not divide dimension 1 of embed_tokens, 5120\."):
        check_mesh(make_mesh_config(1, 48, 1), qwen3_14b)
    with pytest.raises(
        UserError, match=r"mesh\.tensor = 16 does not divide dimension 2 of layers/attention/k_proj, 8\."
    ):
        check_mesh(make_mesh_config(1, 1, 16), qwen3_14b)


def test_another_number_of_devices_is_named_only_where_it_saves_memory(qwen3_14b):
    # 8 devices as fsdp 8 are better than anything smaller; 10 as fsdp 10 is the next that is better still
    assert [axes(choice) for choice in nearest_meshes(qwen3_14b, 8)] == [(1, 8, 1), (1, 4, 2), (1, 2, 4), (1, 10, 1)]


def test_biases_and_tied_embeddings_are_counted_by_their_own_rules():
    config = json.loads((CONFIGS / "Qwen3-0.6B.json").read_text()) | {"attention_bias": True}
    shapes = shapes_of(abstract_model(Architecture.from_hf(config)))
    assert "lm_head" not in shapes and "layers/attention/q_bias" in shapes
    # 28 layers: norms 2 * 1024 + 2 * 128, o_bias 1024; final norm 1024; q, k, v biases (16 + 8 + 8) * 128 over tensor
    whole = 28 * (2 * 1024 + 2 * 128 + 1024) + 1024
    biases = 28 * 32 * 128
    matrices = 596_049_920 - (28 * (2 * 1024 + 2 * 128) + 1024)
    assert state_bytes(shapes, fsdp=4, tensor=2) == 16 * (matrices // 8 + biases // 2 + whole)
