"""verl's objectives: the policy losses of its registry, its estimators of advantages, its rollout correction."""

# ruff: noqa: E402
from __future__ import annotations

from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("ray", "tensordict", "codetiming", "torchdata", "hydra"), without_init=("verl.workers",)
)

from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.utils import torch_functional
from verl.workers.config import ActorConfig

from nouscoder_jax.bench.conformance.libraries.answers import advantages, entropy, k3, serve

_outcome, _rloo = core_algos.compute_grpo_outcome_advantage, core_algos.compute_rloo_outcome_advantage
NO_DUAL_CLIP = 1e9
"""clip_ratio_c has no value that turns it off."""


def _policy(
    case: Any, name: str = "vanilla", aggregation: str = "token-mean", *, dual_clip: float = NO_DUAL_CLIP,
    weights: Any = None, mask: Any = None,
) -> Any:  # fmt: skip
    """A policy loss by its name in verl's registry."""
    low, high = case.clips(sequence=name == "gspo")
    config = ActorConfig(
        strategy="fsdp", ppo_micro_batch_size_per_gpu=1, rollout_n=1,
        clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=dual_clip,
    )  # fmt: skip
    config.global_batch_info["loss_scale_factor"] = case.normalizer_tokens
    mask = case.counted if mask is None else mask
    loss = core_algos.get_policy_loss_fn(name)
    return loss(case.old_logprobs, case.logprobs, case.token_advantages, mask, aggregation, config, weights)[0]


def _correction(case: Any, threshold: Any) -> Any:
    """Weights of verl's rollout correction: truncated, or IcePop where there are two thresholds."""
    drift = case.old_logprobs - case.behavior_logprobs
    return rollout_corr_helper.compute_rollout_correction_weights(drift, case.counted, "token", threshold)[0]


def _rejection(case: Any) -> Any:
    """The mask left by rejecting sequences by their mean log-ratio."""
    bounds, drift = f"{case.min_ratio}_{case.max_ratio}", case.old_logprobs - case.behavior_logprobs
    return rollout_corr_helper.compute_rollout_rejection_mask(drift, case.counted, "seq_mean_k1", bounds)[0]


ANSWERS = {
    "grpo": lambda case: _policy(case, aggregation="seq-mean-token-mean"),
    "dr_grpo": lambda case: _policy(case, aggregation="seq-mean-token-sum-norm"),
    "dapo": _policy,
    "gspo": lambda case: _policy(case, "gspo", "seq-mean-token-mean"),
    "gspo_plus": lambda case: _policy(case, "gspo"),
    "cispo": lambda case: _policy(case, "cispo"),
    "dual_clip": lambda case: _policy(case, dual_clip=case.dual_clip),
    "tis": lambda case: _policy(case, weights=_correction(case, case.max_weight)),
    "icepop": lambda case: _policy(case, weights=_correction(case, f"{case.min_weight}_{case.icepop_max_weight}")),
    "sequence_rejection": lambda case: _policy(case, mask=_rejection(case)),
    "k3_kl": k3(lambda case: core_algos.kl_penalty(case.logprobs, case.reference_logprobs, "low_var_kl")),
    "entropy": entropy(torch_functional.entropy_from_logits),
    "group_mean_std": advantages(_outcome, of="rewards"),
    "equal_rewards": advantages(_outcome, of="equal_rewards"),
    "group_mean": advantages(_outcome, of="rewards", norm_adv_by_std_in_grpo=False),
    "leave_one_out": advantages(_rloo, of="rewards"),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("verl", "torch"), stand_ins=STAND_INS)
