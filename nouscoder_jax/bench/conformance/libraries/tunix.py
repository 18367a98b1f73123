"""google-tunix's objectives: `grpo_loss_fn` on given logprobs, its estimators of advantages, its KL and entropy.

In: the arrays of one input. Out: by objective, the value of tunix's own function.

The model's forward pass is replaced by the logprobs of the input; everything after it is tunix's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import algo_core, common

from nouscoder_jax.bench.conformance.libraries.answers import Answer, serve


class _GivenLogprobs(nnx.Module):
    """A model whose only parameter is its answer."""

    def __init__(self, logprobs: jax.Array) -> None:
        self.logprobs = nnx.Param(logprobs)


def _read_logprobs(graphdef: Any, state: Any, **_: Any) -> tuple[jax.Array, jax.Array]:
    logprobs = nnx.merge(graphdef, state).logprobs[...]
    return logprobs, jnp.zeros((*logprobs.shape, 2))


common.compute_per_token_logps = _read_logprobs


def policy(algorithm: str, aggregation: str, *, dual_clip: bool, weights: bool) -> Answer:
    """`grpo_loss_fn` with these settings."""

    def answer(arrays: dict[str, np.ndarray], settings: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
        case = SimpleNamespace(**{name: jnp.asarray(array) for name, array in arrays.items()})
        sequence = algorithm == "gspo-token"
        factor = jnp.minimum(jnp.exp(case.old_logprobs - case.behavior_logprobs), settings.max_weight)
        example = SimpleNamespace(
            prompt_ids=None,
            completion_ids=None,
            completion_mask=case.mask.astype(jnp.float32),
            advantages=case.advantages,
            old_per_token_logps=case.old_logprobs,
            ref_per_token_logps=None,
            sampler_is_weights=factor if weights else None,
        )
        config = SimpleNamespace(
            beta=0.0,
            epsilon=settings.sequence_clip_low if sequence else settings.clip_low,
            epsilon_high=settings.sequence_clip_high if sequence else settings.clip_high,
            epsilon_c=settings.dual_clip if dual_clip else None,
            loss_algo=algorithm,
            loss_agg_mode=aggregation,
            temperature=1.0,
        )

        def loss(logprobs: jax.Array) -> jax.Array:
            return algo_core.grpo_loss_fn(_GivenLogprobs(logprobs), example, config, 0, 0)[0]

        value, gradient = jax.value_and_grad(loss)(case.logprobs)
        return np.asarray(value), np.asarray(gradient)

    return answer


def _k3(arrays: dict[str, np.ndarray], _: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    mask = jnp.asarray(arrays["mask"])

    def mean(logprobs: jax.Array) -> jax.Array:
        kl = common.compute_kl_divergence(logprobs, jnp.asarray(arrays["reference_logprobs"]), "low_var_kl")
        return jnp.sum(jnp.where(mask, kl, 0.0)) / jnp.sum(mask)

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(arrays["logprobs"]))
    return np.asarray(value), np.asarray(gradient)


def _entropy(arrays: dict[str, np.ndarray], _: SimpleNamespace) -> tuple[np.ndarray, None]:
    found = algo_core.compute_entropy_from_logits(jnp.asarray(arrays["logits"]))
    return np.where(arrays["mask"], found, 0.0), None


def advantages(estimator: Any, *, of: str) -> Answer:
    """An estimator of one reward a completion, groups one after the other; `of` names them among the inputs."""

    def answer(arrays: dict[str, np.ndarray], _: SimpleNamespace) -> tuple[np.ndarray, None]:
        rewards = arrays[of]
        return np.asarray(estimator(rewards.reshape(-1), rewards.shape[1])).reshape(rewards.shape), None

    return answer


_plain: dict[str, Any] = dict(dual_clip=False, weights=False)
ANSWERS: dict[str, Answer] = {
    "grpo": policy("grpo", "sequence-mean-token-mean", **_plain),
    "dr_grpo": policy("grpo", "sequence-mean-token-scale", **_plain),
    "dapo": policy("grpo", "token-mean", **_plain),
    "gspo": policy("gspo-token", "sequence-mean-token-mean", **_plain),
    "gspo_plus": policy("gspo-token", "token-mean", **_plain),
    "dual_clip": policy("grpo", "token-mean", **_plain | dict(dual_clip=True)),
    "tis": policy("grpo", "token-mean", **_plain | dict(weights=True)),
    "k3_kl": _k3,
    "entropy": _entropy,
    "group_mean_std": advantages(algo_core.compute_advantages, of="rewards"),
    "equal_rewards": advantages(algo_core.compute_advantages, of="equal_rewards"),
    "group_mean": advantages(algo_core.compute_drgrpo_advantages, of="rewards"),
    "leave_one_out": advantages(algo_core.compute_rloo_advantages, of="rewards"),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("google-tunix", "jax"), stand_ins=(), precisions=("float32",))
