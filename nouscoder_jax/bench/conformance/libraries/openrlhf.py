"""OpenRLHF's objectives: `PolicyLoss`, its KL estimate, its overlong penalty.

In: the tensors of one input. Out: by objective, the value of OpenRLHF's own function.
"""

# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("deepspeed",),
    without_init=("openrlhf.models", "openrlhf.trainer", "openrlhf.trainer.ppo_utils"),
)

import torch
from openrlhf.models import loss as openrlhf_loss
from openrlhf.models import utils as openrlhf_utils
from openrlhf.trainer.ppo_utils import length_penalty

from nouscoder_jax.bench.conformance.libraries.tensors import TensorAnswer, entropy, k3, rows_to_tokens, serve


def policy(*, sequence: bool, token_level: bool, dual_clip: bool, correction: Any) -> TensorAnswer:
    """`PolicyLoss` with these settings."""

    def answer(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        loss = openrlhf_loss.PolicyLoss(
            clip_eps_low=settings.sequence_clip_low if sequence else settings.clip_low,
            clip_eps_high=settings.sequence_clip_high if sequence else settings.clip_high,
            dual_clip=settings.dual_clip if dual_clip else None,
            token_level_loss=token_level,
            policy_loss_type="gspo" if sequence else "ppo",
            **(correction(settings) if correction else {}),
        )
        mask = case.mask.to(case.logprobs.dtype)
        return loss(case.logprobs, case.old_logprobs, rows_to_tokens(case), mask, case.behavior_logprobs)[0]

    return answer


def _truncated(settings: SimpleNamespace) -> dict[str, Any]:
    return dict(
        is_correction_level="token", is_correction_mode="clip", is_correction_threshold=[0.0, settings.max_weight]
    )


def _icepop(settings: SimpleNamespace) -> dict[str, Any]:
    bounds = [settings.min_weight, settings.icepop_max_weight]
    return dict(is_correction_level="token", is_correction_mode="mask", is_correction_threshold=bounds)


def _sequence_rejection(settings: SimpleNamespace) -> dict[str, Any]:
    bounds = [settings.min_ratio, settings.max_ratio]
    return dict(is_correction_level="seq", is_correction_mode="mask", is_correction_threshold=bounds)


def _kl(case: SimpleNamespace) -> torch.Tensor:
    return openrlhf_utils.compute_approx_kl(case.logprobs, case.reference_logprobs, kl_estimator="k3")


def _overlong(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
    rewards = torch.zeros(len(case.num_tokens))
    experience = SimpleNamespace(response_length=case.num_tokens, rewards=rewards)
    length_penalty.apply_overlong_penalty([experience], settings.max_tokens, settings.buffer_tokens)
    return rewards


_token: dict[str, Any] = dict(sequence=False, token_level=True, dual_clip=False, correction=None)
ANSWERS: dict[str, TensorAnswer] = {
    "grpo": policy(**_token | dict(token_level=False)),
    "dapo": policy(**_token),
    "gspo": policy(**_token | dict(sequence=True)),
    "dual_clip": policy(**_token | dict(dual_clip=True)),
    "tis": policy(**_token | dict(correction=_truncated)),
    "icepop": policy(**_token | dict(correction=_icepop)),
    "sequence_rejection": policy(**_token | dict(correction=_sequence_rejection)),
    "k3_kl": k3(_kl),
    "entropy": entropy(openrlhf_utils.compute_entropy),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("openrlhf",), stand_ins=STAND_INS)
