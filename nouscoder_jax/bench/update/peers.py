"""Contenders of `bench.py update` as processes: how each is started, asked and stopped, and the peers' environment.

In: the workload's folder. Out: answers of contenders, one turn at a time; a Python that can import the peers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nouscoder_jax.config import UserError

ROOT = Path(__file__).parents[3]
MODULES = {
    "ours": "nouscoder_jax.bench.update.ours",
    "trl": "nouscoder_jax.bench.update.trl",
    "tunix": "nouscoder_jax.bench.update.tunix",
}
"""Every contender by name, ours first."""

REQUIREMENTS = ("torch==2.13.0", "trl==1.16.0", "google-tunix==0.1.7", "jax==0.10.2")
"""What is asked for; on Linux another Python than 3.11 may take torch's CUDA wheels, which are gigabytes."""
CONSTRAINTS = (
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "flax==0.12.8",
    "grain==0.2.18",
    "huggingface_hub==1.33.0",
    "jaxlib==0.10.2",
    "numpy==2.4.6",
    "optax==0.2.8",
    "orbax-checkpoint==0.12.8",
    "qwix==0.1.8",
    "safetensors==0.7.0",
    "tokenizers==0.22.2",
    "transformers==5.12.1",
)
"""Versions of what those bring along and what a figure may depend on."""

_LOG_LINES = 5


class ContenderError(Exception):
    """A contender has ended without an answer; its last lines are the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one optimizer step of one contender took.

    Example:
        Turn(wall_s=3.1, cpu_s=5.9, loss=0.0616, grad_norm=0.528)
    """

    wall_s: float
    cpu_s: float
    """Of all its threads; a thread that waits by spinning counts as one that works."""
    loss: float
    grad_norm: float
    """Before clipping."""


class Contender:
    """One process that takes turns.

    Example:
        with Contender("trl", [python, "-m", MODULES["trl"]], folder, num_threads=2) as trl:
            turn = trl.update()
    """

    def __init__(self, name: str, command: list[str], folder: Path, *, num_threads: int) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _environment(num_threads),
            )
        self.facts: dict[str, Any] = {}

    def wait_ready(self) -> None:
        """Returns when it can take turns; `facts` then says how it computes. Raises ContenderError."""
        self.facts = self._answer()["ready"]

    def update(self) -> Turn:
        """One optimizer step. Raises ContenderError."""
        return Turn(**self._ask("update"))

    def extras(self) -> dict[str, float]:
        """What only this contender measures. Raises ContenderError."""
        return self._ask("extras")

    def _ask(self, todo: str) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": todo}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ContenderError(self._last_lines()) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # anything else was printed by a library at import
                return json.loads(line)
        raise ContenderError(self._last_lines())

    def _last_lines(self) -> str:
        self._process.wait()
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{self.name} ended with {self._process.returncode}: " + " | ".join(lines[-_LOG_LINES:])

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def peers_python(folder: Path) -> Path:
    """The Python of the peers' environment, which is made where the folder does not exist. Raises UserError."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--peers-env got {folder}, which holds no bin/python; give an environment or a new folder")
    print(f"installing {' '.join(REQUIREMENTS)} into {folder} (2.4 GB, some minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(CONSTRAINTS) + "\n")
    done = subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(constraints), *REQUIREMENTS])
    if done.returncode:
        python.unlink()
        raise UserError(f"pip could not install {' '.join(REQUIREMENTS)}; see its lines above, then delete {folder}")
    return python


def _environment(num_threads: int) -> dict[str, str]:
    """The same number of threads for all; XLA takes as many as the process may use cores, which the bench limits."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = {name: str(num_threads) for name in names}
    quiet = {
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return limits | quiet | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
