"""Contenders in processes of their own, of `bench.py update` and `bench.py generate`; and their environment.

In: what is started, the folder that it reads. Out: `Contender`s whose turn is a request; a Python with the libraries,
whose environment is made where its folder is new. `bench.py conformance` shares that environment.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.worker import Worker, environment
from nouscoder_jax.config import UserError

FIGURES = {"tokens/s": ("speed", 1.0), "CPU us/token": ("cpu_s_per_work", 1e6)}

REQUIREMENTS = ("torch==2.13.0", "trl==1.16.0", "google-tunix==0.1.7", "jax==0.10.2")
"""What is asked for; on Linux another Python than 3.11 may take torch's CUDA wheels, which are gigabytes."""
CONSTRAINTS = (
    "accelerate==1.15.0", "datasets==5.2.0", "flax==0.12.8", "grain==0.2.18", "huggingface_hub==1.33.0",
    "jaxlib==0.10.2", "numpy==2.4.6", "optax==0.2.8", "orbax-checkpoint==0.12.8", "qwix==0.1.8", "safetensors==0.7.0",
    "tokenizers==0.22.2", "transformers==5.12.1",
)  # fmt: skip
"""Versions of what those bring along and what a figure may depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One process.

    Example:
        Plan(name="ours", command=(sys.executable, "-m", "nouscoder_jax.bench.generate.ours"), num_threads=2)
    """

    name: str
    command: tuple[str, ...]
    num_threads: int
    tasks: tuple[str, ...] = ("",)
    """Each is a contender, called NAME TASK."""
    missing: str = ""
    """Why it cannot run; empty: it can."""


@contextmanager
def started(plans: Sequence[Plan], folder: Path) -> Iterator[tuple[list[Contender], Callable[..., dict[str, Any]]]]:
    """A contender a task, and `ask(name, todo)`: what else a process is asked. A process starts with the context and is
    waited for in its first turn."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for plan in plans:
            if not plan.missing:
                worker = Worker(plan.name, list(plan.command), folder, environment(plan.num_threads))
                workers[plan.name] = stack.enter_context(worker)
        contenders = [_contender(plan, task, workers) for plan in plans for task in plan.tasks]
        yield contenders, lambda name, todo: workers[name].ask(todo)


def _contender(plan: Plan, task: str, workers: Mapping[str, Worker]) -> Contender:
    def turn() -> dict[str, int | float]:
        worker = workers[plan.name]
        found.facts = worker.wait_ready()
        return worker.ask("turn", task=task) if task else worker.ask("turn")

    found = Contender(name=f"{plan.name} {task}".strip(), turn=turn, skipped=plan.missing)
    return found


def peers_python(folder: Path) -> Path:
    """The Python of the peers' environment, which is made where the folder does not exist. Raises UserError."""
    python = folder.absolute() / "bin" / "python"
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
