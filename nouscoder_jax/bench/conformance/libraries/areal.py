"""AReaL's objectives: its actor loss with rejection sampling, its normalisation of rewards, its overlong penalty."""

# ruff: noqa: E402
from __future__ import annotations

from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

_WITHOUT_INIT = ("engine", "engine.fsdp_utils", "infra", "utils", "utils.functional")
STAND_INS = placeholders.install(
    absent=("ray", "torchdata", "hydra"), without_init=("areal", *(f"areal.{name}" for name in _WITHOUT_INIT))
)

import torch
from areal.api.cli_args import NormConfig, RejectionSamplingConfig
from areal.utils.data import KLEstimator, Normalization
from areal.utils.functional import functional, vocab_parallel

from nouscoder_jax.bench.conformance.libraries.answers import Function, k3, serve


def _policy(case: Any, *, level: str = "token", dual_clip: float | None = None, reject: Any = None) -> Any:
    """The actor loss; without rejection sampling, the behavior policy has no part in it."""
    low, high = case.clips(sequence=level == "sequence")
    sampling = RejectionSamplingConfig(**{"level": "token", "metric": "ratio"} | reject) if reject else None
    loss, _ = functional.ppo_actor_loss_fn(
        case.logprobs, case.old_logprobs, case.behavior_logprobs, case.token_advantages,
        eps_clip=low, loss_mask=case.mask, eps_clip_higher=high, c_clip=dual_clip, importance_sampling_level=level,
        rejection_sampling=sampling,
    )  # fmt: skip
    return loss


def _rejected(case: Any) -> Any:
    """Sequences out of bounds are masked."""
    bounds = {"lower": case.min_ratio, "upper": case.max_ratio}
    return _policy(case, reject={"level": "sequence", "action": "mask", "agg": "mean"} | bounds)


def _icepop(case: Any) -> Any:
    """Tokens out of bounds are masked."""
    return _policy(case, reject={"action": "mask", "lower": case.min_weight, "upper": case.icepop_max_weight})


def _entropy(case: Any) -> Any:
    """At counted tokens."""
    rows, time, vocab = case.logits.shape
    labels = torch.zeros(rows * time, dtype=torch.long)
    _, found = vocab_parallel.gather_logprobs_entropy(case.logits.reshape(-1, vocab), labels)
    return torch.where(case.mask, found.reshape(rows, time), 0.0)


def _advantages(*, of: str = "rewards", **options: Any) -> Function:
    """Its normalisation, by group where `options` do not say; `of` names the rewards among the inputs."""

    def answer(case: Any) -> Any:
        rewards = getattr(case, of)
        config = NormConfig(**{"mean_level": "group", "group_size": rewards.shape[1]} | options)
        return Normalization(config)(rewards.reshape(-1)).reshape(rewards.shape)

    return answer


def _overlong(case: Any) -> Any:
    """The penalty of each length."""
    mask = torch.arange(int(case.num_tokens.max()))[None, :] < case.num_tokens[:, None]
    data = {"rewards": torch.zeros(len(mask)), "input_ids": mask.long(), "loss_mask": mask}
    return functional.reward_overlong_penalty(data, case.buffer_tokens, 1.0, case.max_tokens)["rewards"]


_unbiased = {"std_unbiased": True, "eps": 1e-6}
ANSWERS = {
    "dapo": _policy,
    "gspo": lambda case: _policy(case, level="sequence"),
    "gspo_plus": lambda case: _policy(case, level="sequence"),
    "dual_clip": lambda case: _policy(case, dual_clip=case.dual_clip),
    "tis": lambda case: _policy(case, reject={"action": "clamp", "upper": case.max_weight}),
    "icepop": _icepop,
    "decoupled": lambda case: _policy(case, reject={"action": "clamp", "upper": 1e9}),
    "sequence_rejection": _rejected,
    "k3_kl": k3(lambda case: KLEstimator("k3", apply_clamp=False)(case.logprobs, case.reference_logprobs)),
    "entropy": _entropy,
    "group_mean_std": _advantages(std_level="group", **_unbiased),
    "group_mean": _advantages(std_level=None),
    "leave_one_out": _advantages(std_level=None, mean_leave1out=True),
    "equal_rewards": _advantages(of="equal_rewards", std_level="group", **_unbiased),
    "group_mean_batch_std": _advantages(std_level="batch", **_unbiased),
    "batch_mean_std": _advantages(mean_level="batch", std_level="batch", **_unbiased),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("areal", "torch"), stand_ins=STAND_INS)
