"""Rope's inverse frequencies: exact but for one rounding, and how far an engine's float32 arithmetic is from them."""

import json
import os
import subprocess
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest

from nouscoder_jax.model.rope import Yarn, attention_factor, inverse_frequencies

SGLANG_PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
QWEN3 = dict(head_dim=128, theta=1e6)
YARN_2 = Yarn(
    factor=2.0,
    original_max_position_embeddings=40_960,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=attention_factor(2.0),
    truncate=True,
)
CASES = {
    "Qwen3": dict(**QWEN3, scaling=None),
    "Qwen3, YaRN to 81,920": dict(**QWEN3, scaling=YARN_2),
    "theta 5e6, head_dim 80": dict(head_dim=80, theta=5e6, scaling=None),
    "theta 1e4, head_dim 16": dict(head_dim=16, theta=1e4, scaling=None),
}


def exact(*, head_dim: int, theta: float, scaling: Yarn | None) -> list[Decimal]:
    """The same formula in 50 decimal digits; YaRN's ramp of Qwen3 runs from dimension 24 to 41 (arXiv:2309.00071)."""
    getcontext().prec = 50
    plain = [Decimal(theta) ** (Decimal(-2 * i) / head_dim) for i in range(head_dim // 2)]
    if scaling is None:
        return plain
    assert scaling == YARN_2 and (head_dim, theta) == (128, 1e6)
    share = [min(max(Decimal(i - 24) / (41 - 24), Decimal(0)), Decimal(1)) for i in range(head_dim // 2)]
    return [f * (1 - s) + f / Decimal(scaling.factor) * s for f, s in zip(plain, share, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_a_frequency_is_the_exact_one_rounded_once(name):
    case = CASES[name]
    for got, wanted in zip(inverse_frequencies(**case), exact(**case), strict=True):
        ulp = Decimal(float(np.spacing(np.float32(wanted))))
        assert abs(Decimal(float(got)) - wanted) <= ulp * Decimal("0.5000001")


@pytest.mark.parametrize(("name", "position"), [("Qwen3", 40_960), ("Qwen3, YaRN to 81,920", 81_920)])
def test_an_engine_that_computes_frequencies_in_float32_turns_at_most_so_far_from_ours(name, position):
    """transformers and SGLang compute theta ** (2i / head_dim) in float32. How far off that is depends on the
    processor: 6 ulp were seen over many configs, 16 are allowed here. At the last position that is an angle of under
    0.04 radians in the fastest dimensions that are not exact, and less in all others."""
    torch = pytest.importorskip("torch")
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    scaling = CASES[name]["scaling"]
    rope = {"rope_type": "default", "rope_theta": 1e6}
    if scaling is not None:
        rope |= {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40_960}
    config = Qwen3Config(head_dim=128, max_position_embeddings=position, rope_parameters=rope)
    theirs = Qwen3RotaryEmbedding(config).inv_freq.to(torch.float64).numpy()
    ours = inverse_frequencies(**CASES[name]).astype(np.float64)
    radians = np.abs(theirs - ours) * position
    print(f"{name} at position {position:,}: at most {radians.max():.1e} radians, mean {radians.mean():.1e}")
    assert (radians <= 16 * np.spacing(ours.astype(np.float32)) * position).all()
    assert radians.max() < 0.04


@pytest.mark.slow
@pytest.mark.skipif(not SGLANG_PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
def test_the_angles_of_a_real_sglang_are_within_0_04_radians_of_ours_at_the_last_position():
    """What its server turns queries and keys by on this processor: its own table, built by its own code."""
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40_960}
    orders = {"Qwen3": (40_960, None), "Qwen3, YaRN to 81,920": (81_920, yarn)}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [SGLANG_PYTHON, Path(__file__).with_name("sglang_rope.py")], input=json.dumps(list(orders.values())),
        env=environment | {"SGLANG_USE_CPU_ENGINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, (length, _)), row in zip(orders.items(), json.loads(done.stdout.splitlines()[-1]), strict=True):
        cosines, sines = np.split(np.array(row), 2)
        ours = inverse_frequencies(**CASES[name]).astype(np.float64) * (length - 1)
        radians = np.abs(np.angle((cosines + 1j * sines) * np.exp(-1j * ours)))
        print(f"{name} at position {length - 1:,}: at most {radians.max():.1e} radians, mean {radians.mean():.1e}")
        assert 0 < radians.max() < 0.04
