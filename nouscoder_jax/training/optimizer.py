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
    """Clip by global norm, then AdamW (arXiv:1711.05101) with float32 moments."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        _decay_matrices(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(config)),
    )


def _decay_matrices(weight_decay: float) -> optax.GradientTransformation:
    """Adds weight_decay * parameter to the update of each matrix of a layer.

    optax's own mask puts placeholder objects into the tree, which NNX modules do not take as parameters.
    """

    def decayed(path: tuple[Any, ...], update: Any, parameter: Any) -> Any:
        return update if re.fullmatch(UNDECAYED, param_name(path)) else update + weight_decay * parameter

    def update_fn(updates: Any, params: Any) -> Any:
        return jax.tree.map_with_path(decayed, updates, params)

    return optax.stateless(update_fn) if weight_decay else optax.identity()
