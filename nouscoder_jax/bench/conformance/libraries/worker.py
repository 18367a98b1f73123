"""The protocol of `bench.py conformance`: one library in a process of its own, which answers for all inputs.

In: a folder with `settings.json` and `inputs_*.npz`.
Out: in that folder, `LIBRARY.npz` with values and gradients, and `LIBRARY.json` with the library's versions, what it
could not do and what stood in for absent packages. Needs NumPy.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Answer = Callable[[dict[str, np.ndarray], SimpleNamespace], tuple[np.ndarray, np.ndarray | None]]
"""Arrays of one input and the settings -> value, and its gradient with respect to `logprobs` where it has one."""


def serve(library: str, answers: dict[str, Answer], *, facts: dict[str, Any], precisions: tuple[str, ...]) -> None:
    """Answers for the folder in argv, every input in every precision."""
    folder = Path(sys.argv[1])
    settings = SimpleNamespace(**json.loads((folder / "settings.json").read_text()))
    found: dict[str, np.ndarray] = {}
    failures: dict[str, str] = {}
    for path in sorted(folder.glob("inputs_*.npz")):
        with np.load(path) as arrays:
            inputs = dict(arrays)
        for precision in precisions:
            cast = {name: a.astype(precision) if a.dtype.kind == "f" else a for name, a in inputs.items()}
            for name, answer in answers.items():
                key = f"{name}/{path.stem}/{precision}"
                try:
                    value, gradient = answer(cast, settings)
                except Exception as error:  # a library's own code may raise anything; the row says what it was
                    traceback.print_exc()
                    failures[f"{name}/{precision}"] = f"{type(error).__name__}: {error}".splitlines()[0]
                    continue
                found[f"{key}/value"] = np.asarray(value)
                if gradient is not None:
                    found[f"{key}/gradient"] = np.asarray(gradient)
    np.savez(folder / f"{library}.npz", **found)  # pyright: ignore[reportArgumentType]
    (folder / f"{library}.json").write_text(json.dumps(facts | {"failures": failures}))
