"""Answers of libraries on torch: arrays become tensors, the value's gradient is taken by autograd.

In: functions from tensors to a value. Out: answers for `worker`. Runs in the libraries' environment.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from nouscoder_jax.bench.conformance.libraries import worker

TensorAnswer = Callable[[SimpleNamespace, SimpleNamespace], Any]
"""Tensors of one input (`logprobs` wants its gradient) and the settings -> a tensor, array or list."""


def serve(
    library: str, answers: dict[str, TensorAnswer], *, packages: Sequence[str], placeholders: Sequence[str]
) -> None:
    """Answers in float32, and in float64 to tell rounding from a difference."""
    torch.set_num_threads(1)
    facts = {
        "versions": {name: importlib.metadata.version(name) for name in (*packages, "torch")},
        "placeholders": list(placeholders),
    }
    wrapped = {name: _wrap(answer) for name, answer in answers.items()}
    worker.serve(library, wrapped, facts=facts, precisions=("float32", "float64"))


def rows_to_tokens(case: SimpleNamespace) -> torch.Tensor:
    """Advantages "rows time", for libraries that take one a token."""
    return case.advantages[:, None].expand_as(case.logprobs).clone()


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One number of a library's per-token values, so that a gradient can be taken: the mean over counted tokens."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def _wrap(answer: TensorAnswer) -> worker.Answer:
    def compute(arrays: dict[str, np.ndarray], settings: SimpleNamespace) -> tuple[np.ndarray, np.ndarray | None]:
        case = SimpleNamespace(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        case.logprobs.requires_grad_(True)
        value = answer(case, settings)
        if isinstance(value, torch.Tensor) and value.requires_grad and value.ndim == 0:
            (gradient,) = torch.autograd.grad(value, case.logprobs)
            return value.detach().numpy(), gradient.numpy()
        return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value), None

    return compute
