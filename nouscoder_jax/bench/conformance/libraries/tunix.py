"""google-tunix's objectives: `grpo_loss_fn` on given logprobs, its estimators of advantages, its KL and entropy.

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

from nouscoder_jax.bench.conformance.libraries.answers import Answer, Case, Function, serve


class _GivenLogprobs(nnx.Module):
    """A model whose only parameter is its answer."""

    def __init__(self, logprobs: jax.Array) -> None:
        self.logprobs = nnx.Param(logprobs)


def _read_logprobs(graphdef: Any, state: Any, **_: Any) -> tuple[jax.Array, jax.Array]:
    logprobs = nnx.merge(graphdef, state).logprobs[...]
    return logprobs, jnp.zeros((*logprobs.shape, 2))


common.compute_per_token_logps = _read_logprobs


def _by_jax(function: Function, fields: dict[str, Any]) -> Answer:
    """Value, and the gradient of a scalar."""
    arrays = {name: jnp.asarray(value) if isinstance(value, np.ndarray) else value for name, value in fields.items()}
    value = function(Case(**arrays))
    if value.ndim:
        return np.asarray(value), None
    gradient = jax.grad(lambda logprobs: function(Case(**arrays | {"logprobs": logprobs})))(arrays["logprobs"])
    return np.asarray(value), np.asarray(gradient)


def _policy(
    case: Any, aggregation: str = "token-mean", *, algorithm: str = "grpo", dual_clip: float | None = None,
    weights: Any = None,
) -> Any:  # fmt: skip
    """`grpo_loss_fn` with these settings."""
    low, high = case.clips(sequence=algorithm == "gspo-token")
    example = SimpleNamespace(
        prompt_ids=None,
        completion_ids=None,
        completion_mask=case.mask.astype(jnp.float32),
        advantages=case.advantages,
        old_per_token_logps=case.old_logprobs,
        ref_per_token_logps=None,
        sampler_is_weights=weights,
    )
    config = SimpleNamespace(
        beta=0.0, epsilon=low, epsilon_high=high, epsilon_c=dual_clip, loss_algo=algorithm, loss_agg_mode=aggregation,
        temperature=1.0,
    )  # fmt: skip
    return algo_core.grpo_loss_fn(_GivenLogprobs(case.logprobs), example, config, 0, 0)[0]


def _truncated(case: Any) -> Any:
    """The factors that its learner would make."""
    return _policy(case, weights=jnp.minimum(jnp.exp(case.old_logprobs - case.behavior_logprobs), case.max_weight))


def _k3(case: Any) -> Any:
    """The mean over counted tokens, so that a gradient can be taken."""
    kl = common.compute_kl_divergence(case.logprobs, case.reference_logprobs, "low_var_kl")
    return jnp.sum(jnp.where(case.mask, kl, 0.0)) / jnp.sum(case.mask)


def _advantages(estimator: Any, *, of: str = "rewards") -> Function:
    """An estimator of one reward a completion, groups one after the other; `of` names them among the inputs."""

    def answer(case: Any) -> Any:
        rewards = np.asarray(getattr(case, of))
        return jnp.asarray(estimator(rewards.reshape(-1), rewards.shape[1])).reshape(rewards.shape)

    return answer


_gspo = "gspo-token"
ANSWERS = {
    "grpo": lambda case: _policy(case, "sequence-mean-token-mean"),
    "dr_grpo": lambda case: _policy(case, "sequence-mean-token-scale"),
    "dapo": _policy,
    "gspo": lambda case: _policy(case, "sequence-mean-token-mean", algorithm=_gspo),
    "gspo_plus": lambda case: _policy(case, algorithm=_gspo),
    "dual_clip": lambda case: _policy(case, dual_clip=case.dual_clip),
    "tis": _truncated,
    "k3_kl": _k3,
    "entropy": lambda case: jnp.where(case.mask, algo_core.compute_entropy_from_logits(case.logits), 0.0),
    "group_mean_std": _advantages(algo_core.compute_advantages),
    "equal_rewards": _advantages(algo_core.compute_advantages, of="equal_rewards"),
    "group_mean": _advantages(algo_core.compute_drgrpo_advantages),
    "leave_one_out": _advantages(algo_core.compute_rloo_advantages),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("google-tunix", "jax"), compute=_by_jax, precisions=("float32",))
