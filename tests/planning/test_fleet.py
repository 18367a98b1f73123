"""GPUs and how they hang together."""

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.planning.fleet import Fleet, find_gpu


@pytest.mark.parametrize(
    ("name", "title", "gb", "tb_per_s"),
    [("b200", "B200", 191.5, 7.67), ("h100", "H100", 84.9, 3.35), ("h200", "H200", 141, 4.8)],
)  # fmt: skip
def test_memory_is_what_the_description_says(name, title, gb, tb_per_s):
    gpu = find_gpu(name)
    assert title in gpu.title
    assert gpu.memory_bytes / 1e9 == pytest.approx(gb, abs=0.1)
    assert gpu.memory_bandwidth / 1e12 == pytest.approx(tb_per_s, abs=0.01)
    assert gpu.usable_bytes < gpu.memory_bytes


def test_an_unknown_gpu_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="takes one of b200, h100, h200"):
        find_gpu("a100")


@pytest.mark.parametrize(("num_gpus", "topology"), [(48, "1x6x8"), (8, "1x1x8"), (4, "1x1x4"), (1, "1x1x1")])
def test_eight_gpus_make_a_machine(num_gpus, topology):
    assert Fleet(gpu=find_gpu("b200"), num_gpus=num_gpus).topology == topology


def test_part_of_a_machine_beside_whole_ones_is_refused():
    with pytest.raises(UserError, match="use 8 or 16"):
        Fleet(gpu=find_gpu("b200"), num_gpus=12)


def test_a_ring_is_as_fast_as_its_slowest_link():
    fleet = Fleet(gpu=find_gpu("h100"), num_gpus=48)
    inside = fleet.bus_bandwidth(range(8))
    assert inside == pytest.approx(0.8 * 450e9)  # NVLink
    assert fleet.bus_bandwidth(range(16)) == pytest.approx(0.8 * 8 * 50e9)  # eight network cards a machine
    assert fleet.bus_bandwidth((0, 16, 32)) == pytest.approx(0.8 * 50e9)  # one card a machine
