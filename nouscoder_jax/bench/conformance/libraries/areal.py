"""AReaL's objectives: its actor loss with rejection sampling, its normalisation of rewards, its overlong penalty.

In: the tensors of one input. Out: by objective, the value of AReaL's own function.
"""

# ruff: noqa: E402
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nouscoder_jax.bench.conformance.libraries import placeholders

STAND_INS = placeholders.install(
    absent=("ray", "torchdata", "hydra"),
    without_init=(
        "areal",
        "areal.engine",
        "areal.engine.fsdp_utils",
        "areal.infra",
        "areal.utils",
        "areal.utils.functional",
    ),
)

import torch
from areal.api.cli_args import NormConfig, RejectionSamplingConfig
from areal.utils.data import KLEstimator, Normalization
from areal.utils.functional import functional, vocab_parallel

from nouscoder_jax.bench.conformance.libraries.tensors import TensorAnswer, k3, rows_to_tokens, serve


def policy(*, level: str, dual_clip: bool, reject: Any) -> TensorAnswer:
    """The actor loss; without rejection sampling, the behavior policy has no part in it."""

    def answer(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        sequence = level == "sequence"
        loss, _ = functional.ppo_actor_loss_fn(
            case.logprobs,
            case.old_logprobs,
            case.behavior_logprobs,
            rows_to_tokens(case),
            eps_clip=settings.sequence_clip_low if sequence else settings.clip_low,
            loss_mask=case.mask,
            eps_clip_higher=settings.sequence_clip_high if sequence else settings.clip_high,
            c_clip=settings.dual_clip if dual_clip else None,
            rejection_sampling=RejectionSamplingConfig(**reject(settings)) if reject else None,
            importance_sampling_level=level,
        )
        return loss

    return answer


def _truncated(settings: SimpleNamespace) -> dict[str, Any]:
    return dict(level="token", action="clamp", metric="ratio", upper=settings.max_weight)


def _icepop(settings: SimpleNamespace) -> dict[str, Any]:
    bounds = dict(lower=settings.min_weight, upper=settings.icepop_max_weight)
    return dict(level="token", action="mask", metric="ratio") | bounds


def _unbounded(_: SimpleNamespace) -> dict[str, Any]:
    return dict(level="token", action="clamp", metric="ratio", upper=1e9)


def _sequence_rejection(settings: SimpleNamespace) -> dict[str, Any]:
    bounds = dict(lower=settings.min_ratio, upper=settings.max_ratio)
    return dict(level="sequence", action="mask", metric="ratio", agg="mean") | bounds


def _entropy(case: SimpleNamespace, _: SimpleNamespace) -> torch.Tensor:
    labels = torch.zeros(case.logits.shape[:2], dtype=torch.long)
    rows, time, vocab = case.logits.shape
    _, found = vocab_parallel.gather_logprobs_entropy(case.logits.reshape(-1, vocab), labels.reshape(-1))
    return torch.where(case.mask, found.reshape(rows, time), 0.0)


def advantages(*, of: str, **options: Any) -> TensorAnswer:
    """Its normalisation, by group where `options` do not say; `of` names the rewards among the inputs."""

    def answer(case: SimpleNamespace, _: SimpleNamespace) -> torch.Tensor:
        rewards = getattr(case, of)
        config = NormConfig(**dict(mean_level="group", group_size=rewards.shape[1]) | options)
        return Normalization(config)(rewards.reshape(-1)).reshape(rewards.shape)

    return answer


def _overlong(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
    mask = torch.arange(int(case.num_tokens.max()))[None, :] < case.num_tokens[:, None]
    data = {"rewards": torch.zeros(len(mask)), "input_ids": mask.long(), "loss_mask": mask}
    return functional.reward_overlong_penalty(data, settings.buffer_tokens, 1.0, settings.max_tokens)["rewards"]


_token: dict[str, Any] = dict(level="token", dual_clip=False, reject=None)
ANSWERS: dict[str, TensorAnswer] = {
    "dapo": policy(**_token),
    "gspo": policy(**_token | dict(level="sequence")),
    "gspo_plus": policy(**_token | dict(level="sequence")),
    "dual_clip": policy(**_token | dict(dual_clip=True)),
    "tis": policy(**_token | dict(reject=_truncated)),
    "icepop": policy(**_token | dict(reject=_icepop)),
    "decoupled": policy(**_token | dict(reject=_unbounded)),
    "sequence_rejection": policy(**_token | dict(reject=_sequence_rejection)),
    "k3_kl": k3(lambda case: KLEstimator("k3", apply_clamp=False)(case.logprobs, case.reference_logprobs)),
    "entropy": _entropy,
    "group_mean_std": advantages(of="rewards", std_level="group", std_unbiased=True, eps=1e-6),
    "group_mean": advantages(of="rewards", std_level=None),
    "leave_one_out": advantages(of="rewards", std_level=None, mean_leave1out=True),
    "equal_rewards": advantages(of="equal_rewards", std_level="group", std_unbiased=True, eps=1e-6),
    "group_mean_batch_std": advantages(of="rewards", std_level="batch", std_unbiased=True, eps=1e-6),
    "batch_mean_std": advantages(of="rewards", mean_level="batch", std_level="batch", std_unbiased=True, eps=1e-6),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("areal",), stand_ins=STAND_INS)
