"""Rope's inverse frequencies: exact but for one rounding, and how far an engine's float32 arithmetic is from them."""

from decimal import Decimal, getcontext

import numpy as np
import pytest

from nouscoder_jax.model.rope import Yarn, attention_factor, inverse_frequencies

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
