"""TRL's objectives: `GRPOTrainer._compute_loss` on given logprobs, and its parts that are functions.

In: the tensors of one input. Out: by objective, the value of TRL's own function.

The trainer is not started: it gets the attributes that the loss reads, and in place of the model's forward pass the
logprobs of the input. Everything after the forward pass is TRL's.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOTrainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import entropy_from_logits

from nouscoder_jax.bench.conformance.libraries.tensors import TensorAnswer, entropy, serve


class _GivenLogprobs(GRPOTrainer):
    """GRPOTrainer without model and data."""

    def __init__(self, given: torch.Tensor, **attributes: Any) -> None:
        self._given = given
        for name, value in attributes.items():
            setattr(self, name, value)

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
        return self._given, torch.zeros_like(self._given), None


class _OneProcess:
    """The accelerator of a run on one device."""

    num_processes = 1

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        del reduction
        return tensor


def policy(
    loss_type: str, *, sequence: bool, dual_clip: bool, beta: float, clip_offset: float, with_advantages: bool
) -> TensorAnswer:
    """The trainer's loss; `clip_offset` is added to the upper clip."""

    def answer(case: SimpleNamespace, settings: SimpleNamespace) -> torch.Tensor:
        delta = settings.dual_clip if dual_clip else None
        trainer = _GivenLogprobs(
            case.logprobs,
            model=SimpleNamespace(training=True),
            args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
            accelerator=_OneProcess(),
            _metrics=defaultdict(lambda: defaultdict(list)),
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level="sequence" if sequence else "token",
            beta=beta,
            loss_type=loss_type,
            epsilon_low=settings.sequence_clip_low if sequence else settings.clip_low,
            epsilon_high=clip_offset + (settings.sequence_clip_high if sequence else settings.clip_high),
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            current_gradient_accumulation_steps=1,
            max_completion_length=settings.normalizer_tokens,
            _entropy_bonus_enabled=False,
        )
        ids, mask = torch.zeros(case.logprobs.shape, dtype=torch.long), case.mask.long()
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": torch.ones_like(ids[:, :1]),
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": case.advantages if with_advantages else torch.zeros_like(case.advantages),
            "old_per_token_logps": case.old_logprobs,
            "ref_per_token_logps": case.reference_logprobs,
            "num_items_in_batch": mask.sum(),
        }
        return trainer._compute_loss(trainer.model, inputs)

    return answer


def _overlong(case: SimpleNamespace, settings: SimpleNamespace) -> list[float]:
    punish = get_soft_overlong_punishment(settings.max_tokens, settings.buffer_tokens)
    return punish(completion_ids=[[0] * int(length) for length in case.num_tokens])


_token: dict[str, Any] = dict(sequence=False, dual_clip=False, beta=0.0, clip_offset=0.0, with_advantages=True)
ANSWERS: dict[str, TensorAnswer] = {
    "grpo": policy("grpo", **_token),
    "dr_grpo": policy("dr_grpo", **_token),
    "dapo": policy("dapo", **_token),
    "gspo": policy("grpo", **_token | dict(sequence=True)),
    "gspo_plus": policy("luspo", **_token | dict(sequence=True)),
    "cispo": policy("cispo", **_token | dict(clip_offset=1.0)),
    "dual_clip": policy("dapo", **_token | dict(dual_clip=True)),
    "k3_kl": policy("dapo", **_token | dict(beta=1.0, with_advantages=False)),
    "entropy": entropy(entropy_from_logits),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("trl", "transformers"))
