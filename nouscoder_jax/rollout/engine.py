"""What every engine can do, whether it is JAX in this process or a fleet of SGLang servers.

In: a Prompt and a Sampling, or a folder of exported weights. Out: a Completion with the ids that were sampled and
their logprobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.types import Completion, Prompt, Sampling


@runtime_checkable
class Engine(Protocol):
    """Generates completions with the weights it was last given."""

    name: str
    """For people: what generates, e.g. `embedded (JAX, 64 slots)`."""

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next token is sampled with."""
        ...

    @property
    def num_slots(self) -> int:
        """Sequences that it decodes at once; more requests than that wait inside it."""
        ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Returns one completion. Many calls run at once; the engine batches them and refills finished slots.

        Cancelling the awaiting task frees the slot. Raises EngineError when the engine cannot answer.
        """
        ...

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        """Takes the weights of a Hugging Face directory; returns once the next token comes from them.

        Raises EngineError, and keeps the old weights, where the directory is incomplete or of another shape.
        """
        ...

    async def prove(self, probe: Probe) -> Drift:
        """Has everything that generates score the probe's sequences with the weights of the last `reload`, and returns
        the worst that was found; what comes back later is proven before it generates.

        Raises DriftError that names what is over a bound, EngineError when the engine cannot answer.
        """
        ...

    async def release_memory(self) -> None:
        """Gives back the accelerator memory that it can, while nothing is in flight, until `resume_memory`."""
        ...

    async def resume_memory(self) -> None:
        """Takes the memory again. The weights are those that were there before, or of the next `reload`."""
        ...

    async def close(self) -> None:
        """Stops generating and frees everything; pending calls raise EngineError."""
        ...
