"""SkyRL's objectives: the policy losses of its registry, which are sums; its scaling of advantages makes means of them
beforehand."""

# ruff: noqa: E402
from __future__ import annotations

from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("ray", "skyrl_gym"),
    without_init=("skyrl.backends", "skyrl.backends.skyrl_train", "skyrl.backends.skyrl_train.utils"),
)

from skyrl.backends.skyrl_train.utils import ppo_utils, torch_utils
from skyrl.train.config import AlgorithmConfig

from nouscoder_jax.bench.conformance.libraries.answers import advantages, entropy, k3, serve

_outcome, _rloo = ppo_utils.compute_grpo_outcome_advantage, ppo_utils.compute_rloo_outcome_advantage
_LOSSES = {
    "regular": ppo_utils.ppo_policy_loss, "dual_clip": ppo_utils.ppo_policy_loss,
    "gspo": ppo_utils.gspo_policy_loss, "cispo": ppo_utils.compute_policy_loss_cispo,
}  # fmt: skip


def _policy(case: Any, reduction: str = "token_mean", *, kind: str = "regular", **correction: Any) -> Any:
    """A policy loss with a loss reduction; `correction`: fields of its off-policy correction."""
    config = AlgorithmConfig(policy_loss_type=kind, loss_reduction=reduction, clip_ratio_c=case.dual_clip)
    config.eps_clip_low, config.eps_clip_high = case.clips(sequence=kind == "gspo")
    config.cispo.cispo_eps_clip_low, config.cispo.cispo_eps_clip_high = case.clips()
    for name, value in correction.items():
        setattr(config.off_policy_correction, name, value)
    scaled = ppo_utils.apply_loss_reduction_to_advantages_minibatch(
        case.token_advantages, case.counted, reduction, len(case.mask), case.normalizer_tokens
    )
    behavior = case.behavior_logprobs if correction else None
    return _LOSSES[kind](case.logprobs, case.old_logprobs, scaled, config, case.counted, behavior)[0]


def _icepop(case: Any) -> Any:
    """Tokens out of bounds are masked."""
    low, high = case.min_weight, case.icepop_max_weight
    bounds = {"token_mask_is_threshold_low": low, "token_mask_is_threshold_high": high}
    return _policy(case, tis_ratio_type="token", token_tis_ratio_clip_high=high, **bounds)


def _rejection(case: Any) -> Any:
    """Sequences out of bounds are masked."""
    bounds = {"geo_mask_low": case.min_ratio, "geo_mask_high": case.max_ratio}
    return _policy(case, sequence_mask_metric="geometric", **bounds)


ANSWERS = {
    "grpo": lambda case: _policy(case, "sequence_mean"),
    "dr_grpo": lambda case: _policy(case, "seq_mean_token_sum_norm"),
    "dapo": _policy,
    "gspo": lambda case: _policy(case, "sequence_mean", kind="gspo"),
    "gspo_plus": lambda case: _policy(case, kind="gspo"),
    "cispo": lambda case: _policy(case, kind="cispo"),
    "dual_clip": lambda case: _policy(case, kind="dual_clip"),
    "tis": lambda case: _policy(case, tis_ratio_type="token", token_tis_ratio_clip_high=case.max_weight),
    "icepop": _icepop,
    "sequence_rejection": _rejection,
    "k3_kl": k3(lambda case: ppo_utils.compute_approx_kl(case.logprobs, case.reference_logprobs, case.mask, "k3")),
    "entropy": entropy(torch_utils.chunked_entropy_from_logits),
    "group_mean_std": advantages(_outcome, of="rewards"),
    "equal_rewards": advantages(_outcome, of="equal_rewards"),
    "group_mean": advantages(_outcome, of="rewards", grpo_norm_by_std=False),
    "leave_one_out": advantages(_rloo, of="rewards"),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("skyrl", "torch"), stand_ins=STAND_INS)
