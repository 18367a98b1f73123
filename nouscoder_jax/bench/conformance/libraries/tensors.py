"""Answers of libraries on torch: arrays become tensors, the value's gradient is taken by autograd.

In: functions from tensors to a value. Out: answers (`answers`), and what the libraries' adapters have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from nouscoder_jax.bench.conformance.libraries import answers

TensorAnswer = Callable[[SimpleNamespace, SimpleNamespace], Any]
"""Tensors of one input (`logprobs` wants its gradient) and the settings -> a tensor, array or list."""


def serve(functions: dict[str, TensorAnswer], *, packages: Sequence[str], stand_ins: Sequence[str] = ()) -> None:
    """Answers in float32, and in float64 to tell rounding from a difference."""
    torch.set_num_threads(1)
    wrapped = {name: _wrap(function) for name, function in functions.items()}
    answers.serve(wrapped, packages=(*packages, "torch"), stand_ins=stand_ins, precisions=("float32", "float64"))


def rows_to_tokens(case: SimpleNamespace) -> torch.Tensor:
    """Advantages "rows time", for libraries that take one a token."""
    return case.advantages[:, None].expand_as(case.logprobs).clone()


def k3(estimate: Callable[[SimpleNamespace], torch.Tensor]) -> TensorAnswer:
    """One number of a library's per-token KL, so that a gradient can be taken: the mean over counted tokens."""
    return lambda case, _: torch.where(case.mask, estimate(case), 0.0).sum() / case.mask.sum()


def entropy(of: Callable[[torch.Tensor], torch.Tensor]) -> TensorAnswer:
    """A library's entropy of logits, at counted tokens."""
    return lambda case, _: torch.where(case.mask, of(case.logits), 0.0)


def advantages(estimator: Any, *, of: str, **options: Any) -> TensorAnswer:
    """An estimator that takes one reward a completion, and the group of each; `of` names them among the inputs."""

    def answer(case: SimpleNamespace, _: SimpleNamespace) -> np.ndarray:
        given = getattr(case, of)
        groups, group = given.shape
        rewards = given.reshape(-1, 1).clone()
        found, _ = estimator(rewards, torch.ones_like(rewards), np.repeat(np.arange(groups), group), **options)
        return found.reshape(groups, group).numpy()

    return answer


def _wrap(function: TensorAnswer) -> answers.Answer:
    def compute(arrays: dict[str, np.ndarray], settings: SimpleNamespace) -> tuple[np.ndarray, np.ndarray | None]:
        case = SimpleNamespace(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        case.logprobs.requires_grad_(True)
        value = function(case, settings)
        if isinstance(value, torch.Tensor) and value.requires_grad and value.ndim == 0:
            (gradient,) = torch.autograd.grad(value, case.logprobs)
            return value.detach().numpy(), gradient.numpy()
        return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value), None

    return compute
