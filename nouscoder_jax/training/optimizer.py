"""The optimizer: gradient clipping, AdamW, warm-up.

In: `OptimizerConfig`. Out: an optax transformation over the model's tree, and its learning-rate schedule.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nouscoder_jax.config import OptimizerConfig
from nouscoder_jax.model.qwen3 import param_name

UNDECAYED = r".*(norm|bias)|embed_tokens|lm_head"
"""Names of parameters that weight decay leaves alone: everything that is not a matrix of a layer."""


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate of update n = 0, 1, ...: learning_rate * min(1, (n + 1) / warmup_updates)."""

    def schedule(count: Any) -> Any:
        if config.warmup_updates == 0:
            return jnp.float32(config.learning_rate)
        return jnp.float32(config.learning_rate) * jnp.minimum(1.0, (count + 1) / config.warmup_updates)

    return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (arXiv:1711.05101), its moments stored as `config.moments` says."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        *_scale_by_moments(config),
        _decay_matrices(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def _scale_by_moments(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    if config.moments != "factored":
        first = jnp.dtype(config.moments)
        return [optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon, mu_dtype=first)]

    def decay(count: Any, beta2: Any) -> Any:
        """The decay that makes a running mean Adam's bias-corrected one: beta2 (1 - beta2^n) / (1 - beta2^(n + 1))."""
        return beta2 * (1 - beta2**count) / (1 - beta2 ** (count + 1))

    return [
        optax.scale_by_factored_rms(decay_rate=config.beta2, decay_rate_fn=decay, epsilon=config.epsilon**2),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.beta1, debias=True, accumulator_dtype=jnp.bfloat16),
    ]


def _decay_matrices(weight_decay: float) -> optax.GradientTransformation:
    """Adds weight_decay * parameter to the update of each matrix of a layer.

    optax's own mask puts placeholder objects into the tree, which NNX modules do not take as parameters.
    """

    def decayed(path: tuple[Any, ...], update: Any, parameter: Any) -> Any:
        return update if re.fullmatch(UNDECAYED, param_name(path)) else update + weight_decay * parameter

    def update_fn(updates: Any, params: Any) -> Any:
        return jax.tree.map_with_path(decayed, updates, params)

    return optax.stateless(update_fn) if weight_decay else optax.identity()
