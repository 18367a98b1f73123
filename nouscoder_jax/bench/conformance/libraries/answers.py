"""What one library of `bench.py conformance` answers in its own process: values and gradients of one input at a time.

In: functions by name; the folder with `settings.json` and the inputs as .npz. Out: answers for `bench.worker.serve`:
value and gradient by name, and the reason for a function that raised. Needs NumPy.
"""

from __future__ import annotations

import importlib.metadata
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nouscoder_jax.bench import worker

Answer = Callable[[dict[str, np.ndarray], SimpleNamespace], tuple[np.ndarray, np.ndarray | None]]
"""Arrays of one input and the settings -> value, and its gradient with respect to `logprobs` where it has one."""


def serve(
    answers: dict[str, Answer], *, packages: Sequence[str], stand_ins: Sequence[str], precisions: Sequence[str]
) -> None:
    """Answers until it is asked no more. `packages`: whose versions are told; `stand_ins`: what is replaced."""

    def make(folder: Path) -> tuple[dict[str, Any], worker.Answers]:
        settings = SimpleNamespace(**json.loads((folder / "settings.json").read_text()))
        versions = {name: importlib.metadata.version(name) for name in packages}
        facts = {"versions": versions, "placeholders": list(stand_ins), "precisions": list(precisions)}

        def answer(inputs: str, precision: str) -> dict[str, Any]:
            with np.load(folder / inputs) as arrays:
                cast = {name: a.astype(precision) if a.dtype.kind == "f" else a for name, a in arrays.items()}
            return {name: _computed(function, cast, settings) for name, function in answers.items()}

        return facts, {"answer": answer}

    worker.serve(make)


def _computed(function: Answer, arrays: dict[str, np.ndarray], settings: SimpleNamespace) -> dict[str, Any]:
    try:
        value, gradient = function(arrays, settings)
    except Exception as error:  # a library's own code may raise anything; the row says what it was
        traceback.print_exc()
        return {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {
        "value": np.asarray(value).tolist(),
        "gradient": None if gradient is None else np.asarray(gradient).tolist(),
    }
