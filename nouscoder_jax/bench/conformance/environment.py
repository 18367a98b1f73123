"""The libraries of `bench.py conformance`: how each is installed, and its answers from a process of its own.

In: a folder for the environment, a folder with inputs. Out: answers by name and input, the reason where there are none.

TRL and tunix are in the environment that `bench.py update` uses as well. The others are laid beside it, each in a
folder of its own and without its dependencies (they want CUDA servers and clusters), so that versions never clash;
what their modules import beside the loss is small and installed, or a placeholder that the loss never touches.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nouscoder_jax.bench.worker import Worker, WorkerError, environment

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
        Answers(failure="pip could not install verl==0.9.1")
    """

    values: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)
    """Name, input and precision -> value and, where it has one, gradient."""
    failures: dict[str, str] = field(default_factory=dict)
    """`NAME/PRECISION` -> what the function raised."""
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    """Why there are none at all; empty: there are."""


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
    paths = (_home(folder, library), folder / "conformance" / "light")
    variables = environment(1, *paths) | {"TORCHDYNAMO_DISABLE": "1"}  # compiled, it computes the same, minutes later
    command = [str(folder / "bin" / "python"), "-m", library.module]
    found = Answers()
    try:
        with Worker(library.name, command, inputs, variables) as worker:
            found.facts = worker.wait_ready()
            for precision in found.facts.pop("precisions"):
                for path in sorted(inputs.glob("*.npz")):
                    for name, answer in worker.ask("answer", inputs=path.name, precision=precision).items():
                        if "failure" in answer:
                            found.failures[f"{name}/{precision}"] = answer["failure"]
                        else:
                            key = (name, path.stem, precision)
                            found.values[key] = (np.asarray(answer["value"]), _array(answer["gradient"]))
    except WorkerError as error:
        return Answers(failure=str(error))
    return found


def _array(values: list[Any] | None) -> np.ndarray | None:
    return None if values is None else np.asarray(values)


def _home(folder: Path, library: Library) -> Path:
    return folder / "conformance" / library.name
