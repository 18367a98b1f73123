"""The libraries of `bench.py conformance`: how each is installed, and its answers from a process of its own.

In: a folder for the environment, a folder with inputs. Out: answers by name and input, the reason where there are none.

TRL and tunix are in the environment that `bench.py update` uses as well. The others are laid beside it, each in a
folder of its own and without its dependencies (they want CUDA servers and clusters), so that versions never clash;
what their modules import beside the loss is small and installed, or a placeholder that the loss never touches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[3]
_TIMEOUT_S = 3600
_LIGHT = ("orjson==3.13.0", "colorlog==6.12.0", "loguru==0.7.3")
"""Small packages that the libraries import and the environment lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library whose functions are run.

    Example:
        Library(name="verl", requirement="verl==0.9.1")
    """

    name: str
    requirement: str = ""
    """What pip installs beside the environment; empty: the environment has it."""

    @property
    def module(self) -> str:
        """Runs in the library's process."""
        return f"nouscoder_jax.bench.conformance.libraries.{self.name}"


LIBRARIES = (
    Library(name="verl", requirement="verl==0.9.1"),
    Library(name="trl"),
    Library(name="openrlhf", requirement="openrlhf==0.11.2"),
    Library(name="skyrl", requirement="skyrl==0.3.0"),
    Library(name="areal", requirement="areal==1.0.4"),
    Library(name="tunix"),
)


@dataclass(kw_only=True)
class Answers:
    """What one library answered.

    Example:
        Answers(values={}, facts={}, failure="pip could not install verl==0.9.1")
    """

    values: dict[str, np.ndarray]
    """`NAME/INPUT/PRECISION/value` and `.../gradient`."""
    facts: dict[str, Any]
    failure: str = ""
    """Why there are none; empty: there are."""


def install(folder: Path) -> dict[str, str]:
    """Lays the libraries beside the environment in `folder`, those that are not there yet; why, where pip could not."""
    failures = {}
    wanted = [(_LIGHT, folder / "conformance" / "light")]
    wanted += [((one.requirement,), _home(folder, one)) for one in LIBRARIES if one.requirement]
    for requirements, home in wanted:
        done = home / "installed.txt"
        if done.exists() and done.read_text() == "\n".join(requirements):
            continue
        print(f"installing {' '.join(requirements)} into {home}", file=sys.stderr)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        ran = subprocess.run([*command, "--target", str(home), *requirements], stdout=sys.stderr)
        if ran.returncode:
            failures[home.name] = f"pip could not install {' '.join(requirements)}"
        else:
            done.write_text("\n".join(requirements))
    return failures


def ask(library: Library, folder: Path, inputs: Path) -> Answers:
    """The library's answers for every input in `inputs`."""
    paths = [ROOT, _home(folder, library), folder / "conformance" / "light"]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # a compiled function computes the same, minutes later
        "XLA_FLAGS": "",
    }
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        command = [str(folder / "bin" / "python"), "-m", library.module, str(inputs)]
        try:
            ran = subprocess.run(command, env=env, stdout=log, stderr=log, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Answers(values={}, facts={}, failure=f"no answer after {_TIMEOUT_S} s")
        if ran.returncode:
            log.seek(0)
            lines = [line.strip() for line in log.read().splitlines() if line.strip()]
            return Answers(values={}, facts={}, failure=lines[-1] if lines else f"ended with {ran.returncode}")
    facts = json.loads((inputs / f"{library.name}.json").read_text())
    with np.load(inputs / f"{library.name}.npz") as arrays:
        return Answers(values=dict(arrays), facts=facts)


def _home(folder: Path, library: Library) -> Path:
    return folder / "conformance" / library.name
