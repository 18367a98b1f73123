"""TRL's objectives: `GRPOTrainer._compute_loss` on given logprobs, and its parts that are functions.

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

from nouscoder_jax.bench.conformance.libraries.answers import entropy, serve


class _GivenLogprobs(GRPOTrainer):
    """GRPOTrainer without model and data."""

    def __init__(self, given: torch.Tensor, **attributes: Any) -> None:
        self._given = given
        for name, value in attributes.items():
            setattr(self, name, value)

    def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> Any:
        return self._given, torch.zeros_like(self._given), None


_ONE_PROCESS = SimpleNamespace(num_processes=1, gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor)
"""The accelerator of a run on one device."""


def _policy(
    case: Any, loss_type: str, *, sequence: bool = False, delta: float | None = None, beta: float = 0.0,
    clip_offset: float = 0.0, factor: float = 1.0,
) -> Any:  # fmt: skip
    """The trainer's loss; `clip_offset` is added to the upper clip, `factor` multiplies the advantages."""
    low, high = case.clips(sequence=sequence)
    trainer = _GivenLogprobs(
        case.logprobs,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=_ONE_PROCESS,
        _metrics=defaultdict(lambda: defaultdict(list)),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="sequence" if sequence else "token",
        beta=beta,
        loss_type=loss_type,
        epsilon_low=low,
        epsilon_high=clip_offset + high,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=case.normalizer_tokens,
        _entropy_bonus_enabled=False,
    )
    ids, mask = torch.zeros(case.logprobs.shape, dtype=torch.long), case.mask.long()
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": factor * case.advantages,
        "old_per_token_logps": case.old_logprobs,
        "ref_per_token_logps": case.reference_logprobs,
        "num_items_in_batch": mask.sum(),
    }
    return trainer._compute_loss(trainer.model, inputs)


def _overlong(case: Any) -> list[float]:
    """The penalty of each length."""
    punish = get_soft_overlong_punishment(case.max_tokens, case.buffer_tokens)
    return punish(completion_ids=[[0] * int(length) for length in case.num_tokens])


ANSWERS = {
    "grpo": lambda case: _policy(case, "grpo"),
    "dr_grpo": lambda case: _policy(case, "dr_grpo"),
    "dapo": lambda case: _policy(case, "dapo"),
    "gspo": lambda case: _policy(case, "grpo", sequence=True),
    "gspo_plus": lambda case: _policy(case, "luspo", sequence=True),
    "cispo": lambda case: _policy(case, "cispo", clip_offset=1.0),
    "dual_clip": lambda case: _policy(case, "dapo", delta=case.dual_clip),
    "k3_kl": lambda case: _policy(case, "dapo", beta=1.0, factor=0.0),
    "entropy": entropy(entropy_from_logits),
    "overlong": _overlong,
}

if __name__ == "__main__":
    serve(ANSWERS, packages=("trl", "transformers", "torch"))
