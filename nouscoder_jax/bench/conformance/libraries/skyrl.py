"""SkyRL's objectives: the policy losses of its registry with the scaling of advantages that reduces them.

In: the tensors of one input. Out: by objective, the value of SkyRL's own function.

SkyRL's losses are sums: the mean is taken beforehand, by its `apply_loss_reduction_to_advantages_minibatch`.
"""

# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("ray", "skyrl_gym"),
    without_init=("skyrl.backends", "skyrl.backends.skyrl_train", "skyrl.backends.skyrl_train.utils"),
)

import torch
from skyrl.backends.skyrl_train.utils import ppo_utils, torch_utils
from skyrl.train.config import AlgorithmConfig

from nouscoder_jax.bench.conformance.libraries.tensors import (
    TensorAnswer,
    advantages,
    entropy,
    k3,
    rows_to_tokens,
    serve,
)


def policy(loss: Any, reduction: str, *, kind: str, sequence: bool, correct: Any) -> TensorAnswer:
    """A policy loss with a loss reduction."""

    def answer(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        config = AlgorithmConfig(policy_loss_type=kind, loss_reduction=reduction, clip_ratio_c=settings.dual_clip)
        config.eps_clip_low = settings.sequence_clip_low if sequence else settings.clip_low
        config.eps_clip_high = settings.sequence_clip_high if sequence else settings.clip_high
        config.cispo.cispo_eps_clip_low = settings.clip_low
        config.cispo.cispo_eps_clip_high = settings.clip_high
        if correct:
            correct(config.off_policy_correction, settings)
        mask = case.mask.to(case.logprobs.dtype)
        advantages = ppo_utils.apply_loss_reduction_to_advantages_minibatch(
            rows_to_tokens(case), mask, reduction, len(mask), settings.normalizer_tokens
        )
        return loss(
            case.logprobs, case.old_logprobs, advantages, config, mask, case.behavior_logprobs if correct else None
        )[0]

    return answer


def _truncated(config: Any, settings: SimpleNamespace) -> None:
    config.tis_ratio_type = "token"
    config.token_tis_ratio_clip_high = settings.max_weight


def _icepop(config: Any, settings: SimpleNamespace) -> None:
    config.tis_ratio_type = "token"
    config.token_tis_ratio_clip_high = settings.icepop_max_weight
    config.token_mask_is_threshold_low = settings.min_weight
    config.token_mask_is_threshold_high = settings.icepop_max_weight


def _sequence_rejection(config: Any, settings: SimpleNamespace) -> None:
    config.sequence_mask_metric = "geometric"
    config.geo_mask_low, config.geo_mask_high = settings.min_ratio, settings.max_ratio


_token: dict[str, Any] = dict(kind="regular", sequence=False, correct=None)
_sequence: dict[str, Any] = dict(kind="gspo", sequence=True, correct=None)
_ppo = ppo_utils.ppo_policy_loss
ANSWERS: dict[str, TensorAnswer] = {
    "grpo": policy(_ppo, "sequence_mean", **_token),
    "dr_grpo": policy(_ppo, "seq_mean_token_sum_norm", **_token),
    "dapo": policy(_ppo, "token_mean", **_token),
    "gspo": policy(ppo_utils.gspo_policy_loss, "sequence_mean", **_sequence),
    "gspo_plus": policy(ppo_utils.gspo_policy_loss, "token_mean", **_sequence),
    "cispo": policy(ppo_utils.compute_policy_loss_cispo, "token_mean", **_token | dict(kind="cispo")),
    "dual_clip": policy(_ppo, "token_mean", **_token | dict(kind="dual_clip")),
    "tis": policy(_ppo, "token_mean", **_token | dict(correct=_truncated)),
    "icepop": policy(_ppo, "token_mean", **_token | dict(correct=_icepop)),
    "sequence_rejection": policy(_ppo, "token_mean", **_token | dict(correct=_sequence_rejection)),
    "k3_kl": k3(lambda case: ppo_utils.compute_approx_kl(case.logprobs, case.reference_logprobs, case.mask, "k3")),
    "entropy": entropy(torch_utils.chunked_entropy_from_logits),
    "group_mean_std": advantages(ppo_utils.compute_grpo_outcome_advantage, of="rewards"),
    "equal_rewards": advantages(ppo_utils.compute_grpo_outcome_advantage, of="equal_rewards"),
    "group_mean": advantages(ppo_utils.compute_grpo_outcome_advantage, of="rewards", grpo_norm_by_std=False),
    "leave_one_out": advantages(ppo_utils.compute_rloo_outcome_advantage, of="rewards"),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("skyrl",), stand_ins=STAND_INS)
