"""verl's objectives: the policy losses of its registry, its estimators of advantages, its rollout correction.

In: the tensors of one input. Out: by objective, the value of verl's own function.
"""

# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("ray", "tensordict", "codetiming", "torchdata", "hydra"),
    without_init=("verl.workers",),
)

import torch
from verl.trainer.ppo import core_algos, rollout_corr_helper
from verl.utils import torch_functional
from verl.workers.config import ActorConfig

from nouscoder_jax.bench.conformance.libraries.tensors import (
    TensorAnswer,
    advantages,
    entropy,
    k3,
    rows_to_tokens,
    serve,
)

NO_DUAL_CLIP = 1e9
"""clip_ratio_c has no value that turns it off."""


def policy(name: str, aggregation: str, *, sequence: bool, dual_clip: bool, weights: Any, mask: Any) -> TensorAnswer:
    """A policy loss by its name in verl's registry."""

    def answer(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        config = ActorConfig(
            strategy="fsdp",
            ppo_micro_batch_size_per_gpu=1,
            rollout_n=1,
            clip_ratio_low=settings.sequence_clip_low if sequence else settings.clip_low,
            clip_ratio_high=settings.sequence_clip_high if sequence else settings.clip_high,
            clip_ratio_c=settings.dual_clip if dual_clip else NO_DUAL_CLIP,
        )
        config.global_batch_info["loss_scale_factor"] = settings.normalizer_tokens
        where = mask(case, settings) if mask else case.mask.to(case.logprobs.dtype)
        factor = weights(case, settings) if weights else None
        loss = core_algos.get_policy_loss_fn(name)
        found, _ = loss(case.old_logprobs, case.logprobs, rows_to_tokens(case), where, aggregation, config, factor)
        return found

    return answer


def correction(kind: str) -> Any:
    """Weights of verl's rollout correction, truncated or IcePop."""

    def weights(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        threshold = settings.max_weight if kind == "tis" else f"{settings.min_weight}_{settings.icepop_max_weight}"
        found, _ = rollout_corr_helper.compute_rollout_correction_weights(
            case.old_logprobs - case.behavior_logprobs, case.mask.to(case.logprobs.dtype), "token", threshold
        )
        return found

    return weights


def rejection(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
    """The mask left by rejecting sequences by their mean log-ratio."""
    kept, _ = rollout_corr_helper.compute_rollout_rejection_mask(
        case.old_logprobs - case.behavior_logprobs,
        case.mask.to(case.logprobs.dtype),
        "seq_mean_k1",
        f"{settings.min_ratio}_{settings.max_ratio}",
    )
    return kept


_token: dict[str, Any] = dict(sequence=False, dual_clip=False, weights=None, mask=None)
_sequence = _token | dict(sequence=True)
ANSWERS: dict[str, TensorAnswer] = {
    "grpo": policy("vanilla", "seq-mean-token-mean", **_token),
    "dr_grpo": policy("vanilla", "seq-mean-token-sum-norm", **_token),
    "dapo": policy("vanilla", "token-mean", **_token),
    "gspo": policy("gspo", "seq-mean-token-mean", **_sequence),
    "gspo_plus": policy("gspo", "token-mean", **_sequence),
    "cispo": policy("cispo", "token-mean", **_token),
    "dual_clip": policy("vanilla", "token-mean", **_token | dict(dual_clip=True)),
    "tis": policy("vanilla", "token-mean", **_token | dict(weights=correction("tis"))),
    "icepop": policy("vanilla", "token-mean", **_token | dict(weights=correction("icepop"))),
    "sequence_rejection": policy("vanilla", "token-mean", **_token | dict(mask=rejection)),
    "k3_kl": k3(lambda case: core_algos.kl_penalty(case.logprobs, case.reference_logprobs, "low_var_kl")),
    "entropy": entropy(torch_functional.entropy_from_logits),
    "group_mean_std": advantages(core_algos.compute_grpo_outcome_advantage, of="rewards"),
    "equal_rewards": advantages(core_algos.compute_grpo_outcome_advantage, of="equal_rewards"),
    "group_mean": advantages(core_algos.compute_grpo_outcome_advantage, of="rewards", norm_adv_by_std_in_grpo=False),
    "leave_one_out": advantages(core_algos.compute_rloo_outcome_advantage, of="rewards"),
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("verl",), stand_ins=STAND_INS)
