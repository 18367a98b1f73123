"""What one library of `bench.py conformance` answers in its own process: values and gradients of one input at a time.

In: functions by name; the folder with `settings.json` and the inputs as .npz. Out: answers for `bench.worker.serve`:
value and gradient by name, and the reason for a function that raised.

A function gets the arrays and the settings of one input as attributes, and those of `Case`.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nouscoder_jax.bench import worker

Function = Callable[[Any], Any]
"""One input -> a tensor, array or list; a scalar has a gradient with respect to `logprobs`."""
Answer = tuple[np.ndarray, np.ndarray | None]


class Case(SimpleNamespace):
    """One input, and what several libraries take of it."""

    def clips(self, *, sequence: bool = False) -> tuple[float, float]:
        """Lower and upper."""
        return (self.sequence_clip_low, self.sequence_clip_high) if sequence else (self.clip_low, self.clip_high)

    @property
    def token_advantages(self) -> Any:
        """Of each token: "rows time"."""
        return self.advantages[:, None].expand_as(self.logprobs).clone()

    @property
    def counted(self) -> Any:
        """The mask in numbers."""
        return self.mask.to(self.logprobs.dtype)


def serve(
    functions: dict[str, Function], *, packages: Sequence[str], stand_ins: Sequence[str] = (),
    compute: Callable[[Function, dict[str, Any]], Answer] | None = None,
    precisions: Sequence[str] = ("float32", "float64"),
) -> None:  # fmt: skip
    """Answers until it is asked no more. `packages`: whose versions are told; `stand_ins`: what is replaced;
    `compute(function, fields)`: value and gradient (default: by torch); float64 tells rounding from a difference."""

    def make(folder: Path) -> tuple[dict[str, Any], worker.Answers]:
        settings = json.loads((folder / "settings.json").read_text())
        facts = {"versions": worker.versions(*packages), "placeholders": list(stand_ins)}

        def answer(inputs: str, precision: str) -> dict[str, Any]:
            with np.load(folder / inputs) as arrays:
                cast = {name: a.astype(precision) if a.dtype.kind == "f" else a for name, a in arrays.items()}
            return {name: _answer(one, settings | cast, compute or by_torch) for name, one in functions.items()}

        return facts | {"precisions": list(precisions)}, {"answer": answer}

    worker.serve(make)


def _answer(function: Function, fields: dict[str, Any], compute: Callable[..., Answer]) -> dict[str, Any]:
    try:
        value, gradient = compute(function, fields)
    except Exception as error:  # a library's own code may raise anything; the row says what it was
        traceback.print_exc()
        return {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {
        "value": np.asarray(value).tolist(),
        "gradient": None if gradient is None else np.asarray(gradient).tolist(),
    }


def by_torch(function: Function, fields: dict[str, Any]) -> Answer:
    """Arrays become tensors; the gradient is autograd's."""
    import torch

    torch.set_num_threads(1)
    case = Case(**{n: torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for n, a in fields.items()})
    case.logprobs.requires_grad_(True)
    value = function(case)
    if not isinstance(value, torch.Tensor):
        return np.asarray(value), None
    if value.requires_grad and value.ndim == 0:
        return value.detach().numpy(), torch.autograd.grad(value, case.logprobs)[0].numpy()
    return value.detach().numpy(), None


def k3(estimate: Function) -> Function:
    """One number of a library's per-token KL, so that a gradient can be taken: the mean over counted tokens."""
    return lambda case: estimate(case).masked_fill(~case.mask, 0.0).sum() / case.mask.sum()


def entropy(of: Function) -> Function:
    """A library's entropy of logits, at counted tokens."""
    return lambda case: of(case.logits).masked_fill(~case.mask, 0.0)


def advantages(estimator: Any, *, of: str, **options: Any) -> Function:
    """An estimator that takes one reward a completion, and the group of each; `of` names them among the inputs."""

    def answer(case: Any) -> np.ndarray:
        groups, group = getattr(case, of).shape
        rewards = getattr(case, of).reshape(-1, 1).clone()
        found, _ = estimator(rewards, rewards.new_ones(rewards.shape), np.repeat(np.arange(groups), group), **options)
        return found.reshape(groups, group).numpy()

    return answer
