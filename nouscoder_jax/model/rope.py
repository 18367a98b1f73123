"""Rotary position embedding, plain or stretched by YaRN.

In: positions "rows time", head vectors "rows time heads head_dim". Out: cos and sin "rows time half", rotated vectors.
Everything here is float32, whatever the compute dtype: at position 40,000 bfloat16 cannot tell neighbours apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN, arXiv:2309.00071: low frequencies are interpolated by `factor`, high ones kept, a ramp between them."""

    factor: float
    """How many times longer than the original the context is."""
    original_max_position_embeddings: int
    """Positions the model was trained on."""
    beta_fast: float
    """Dimensions that turn more often than this over the original context keep their frequency."""
    beta_slow: float
    """Dimensions that turn less often than this are interpolated fully."""
    attention_factor: float
    """Scale of cos and sin, so of q and k each: 0.1 ln(factor) + 1 in the paper."""
    truncate: bool
    """The ramp's ends are rounded outward to whole dimensions."""


def attention_factor(factor: float) -> float:
    """Returns the paper's scale of cos and sin, 0.1 ln(factor) + 1; 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0


def inverse_frequencies(*, head_dim: int, theta: float, scaling: Yarn | None) -> Float32[np.ndarray, " half"]:
    """Returns radians per position of each pair of dimensions: theta^(-2i/head_dim), under YaRN mixed with 1/factor.

    YaRN's ramp runs between the dimensions that make beta_fast and beta_slow turns over the original context
    (arXiv:2309.00071, section 3.2; rounding as in huggingface/transformers modeling_rope_utils.py). Each operation is
    rounded to float32 in transformers' order: a frequency off by its last bit is 0.002 radians off at position 40,000.
    """
    # NumPy's own power of float32 is off by up to four last bits where the processor has AVX-512: taken in float64.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    wavelengths = (np.float64(np.float32(theta)) ** exponents.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / wavelengths
    if scaling is None:
        return plain

    def dimension_of(turns: float) -> float:
        wavelength = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    kept = np.float32(1) - ramp
    interpolated = np.float32(1) / (np.float32(scaling.factor) * wavelengths)
    return interpolated * (np.float32(1) - kept) + plain * kept


def cos_sin(
    positions: Int[Array, "*shape"], *, head_dim: int, theta: float, scaling: Yarn | None
) -> tuple[Float32[Array, "*shape half"], Float32[Array, "*shape half"]]:
    """Returns cos and sin of position x frequency, times YaRN's attention factor."""
    frequencies = inverse_frequencies(head_dim=head_dim, theta=theta, scaling=scaling)
    angles = jnp.einsum("...,h->...h", positions.astype(jnp.float32), frequencies)
    scale = 1.0 if scaling is None else scaling.attention_factor
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(
    vectors: Float[Array, "*shape heads head_dim"],
    cos: Float32[Array, "*shape half"],
    sin: Float32[Array, "*shape half"],
) -> Float[Array, "*shape heads head_dim"]:
    """Returns `vectors` with dimensions (i, i + head_dim/2) turned as pairs, in the dtype they came in."""
    first, second = jnp.split(vectors.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.expand_dims(cos, -2), jnp.expand_dims(sin, -2)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(vectors.dtype)
