"""OpenRLHF's objectives: `PolicyLoss`, its KL estimate, its overlong penalty."""

# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("deepspeed",), without_init=("openrlhf.models", "openrlhf.trainer", "openrlhf.trainer.ppo_utils")
)

import torch
from openrlhf.models import utils as openrlhf_utils
from openrlhf.models.loss import PolicyLoss
from openrlhf.trainer.ppo_utils import length_penalty

from nouscoder_jax.bench.conformance.libraries.answers import entropy, k3, serve


def _policy(case: Any, *, kind: str = "ppo", **options: Any) -> Any:
    """`PolicyLoss` with these settings."""
    low, high = case.clips(sequence=kind == "gspo")
    options = {"dual_clip": None, "token_level_loss": True} | options
    loss = PolicyLoss(clip_eps_low=low, clip_eps_high=high, policy_loss_type=kind, **options)
    return loss(case.logprobs, case.old_logprobs, case.token_advantages, case.counted, case.behavior_logprobs)[0]


def _corrected(case: Any, level: str, mode: str, bounds: list[float]) -> Any:
    """With importance sampling between the engine and the policy."""
    options = {"is_correction_level": level, "is_correction_mode": mode, "is_correction_threshold": bounds}
    return _policy(case, **options)


def _overlong(case: Any) -> Any:
    """The penalty of each length."""
    rewards = torch.zeros(len(case.num_tokens))
    experience = SimpleNamespace(response_length=case.num_tokens, rewards=rewards)
    length_penalty.apply_overlong_penalty([experience], case.max_tokens, case.buffer_tokens)
    return rewards


def _kl(case: Any) -> Any:
    """Of each token."""
    return openrlhf_utils.compute_approx_kl(case.logprobs, case.reference_logprobs, kl_estimator="k3")


ANSWERS = {
    "grpo": lambda case: _policy(case, token_level_loss=False),
    "dapo": _policy,
    "gspo": lambda case: _policy(case, kind="gspo"),
    "dual_clip": lambda case: _policy(case, dual_clip=case.dual_clip),
    "tis": lambda case: _corrected(case, "token", "clip", [0.0, case.max_weight]),
    "icepop": lambda case: _corrected(case, "token", "mask", [case.min_weight, case.icepop_max_weight]),
    "sequence_rejection": lambda case: _corrected(case, "seq", "mask", [case.min_ratio, case.max_ratio]),
    "k3_kl": k3(_kl),
    "entropy": entropy(openrlhf_utils.compute_entropy),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("openrlhf", "torch"), stand_ins=STAND_INS)
