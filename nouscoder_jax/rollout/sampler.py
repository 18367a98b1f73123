"""From a prompt to a group of rollouts, each handed on as soon as it is finished.

In: an engine, a Prompt, a Sampling. Out: one asyncio task a rollout.

`sample_group` is not a coroutine: the tasks exist, in order of sample_index, before it returns. A caller that starts
all groups of a wave without awaiting in between thus puts all their requests to the engine in one turn of the event
loop and in one order, which is what makes the embedded engine's batches, and so whole runs, repeatable.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from nouscoder_jax.config import EvaluationConfig, RolloutConfig
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.extract import Extract
from nouscoder_jax.types import Prompt, Rollout, Sampling


def sampling_of(settings: RolloutConfig | EvaluationConfig, *, seed: int) -> Sampling:
    """How a section of the config draws; `seed` is the run's."""
    return Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_completion_tokens=settings.max_completion_tokens,
        seed=seed,
    )


def sample_seed(seed: int, *, group_id: int, sample_index: int) -> int:
    """The seed of one completion, in [0, 2**31): BLAKE2b of the run's seed and the rollout's place in it."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, group_id, sample_index), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_group(
    engine: Engine,
    prompt: Prompt,
    sampling: Sampling,
    *,
    group_id: int,
    group_size: int,
    decode: Callable[[Sequence[int]], str],
    extract: Extract,
    without: Container[int] = (),
) -> tuple[asyncio.Task[Rollout], ...]:
    """One running task for each rollout of the group, in order of sample_index.

    `sampling.seed` is the run's, from which each completion gets one of its own (`sample_seed`). `decode` turns sampled
    ids into text, `extract` takes the program out. Indices in `without` get no task. Cancelling a task frees its slot
    in the engine. A task raises EngineError when the engine cannot answer. Needs a running event loop.
    """

    async def sample(sample_index: int) -> Rollout:
        seed = sample_seed(sampling.seed, group_id=group_id, sample_index=sample_index)
        completion = await engine.generate(prompt, replace(sampling, seed=seed))
        text = decode(completion.token_ids)
        extracted = extract(prompt, completion, text)
        return Rollout(
            group_id=group_id,
            sample_index=sample_index,
            prompt=prompt,
            completion=completion,
            text=text,
            program=extracted.program,
            rules_differ=extracted.rules_differ,
        )

    return tuple(
        asyncio.create_task(sample(index), name=f"group {group_id} sample {index}")
        for index in range(group_size)
        if index not in without
    )


async def cancel(tasks: Sequence[asyncio.Task[Rollout]]) -> None:
    """Cancels what still runs and returns when all have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
