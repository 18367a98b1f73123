"""This project as a contender of `bench.py generate`: the embedded engine, as a training run uses it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nouscoder_jax.bench.generate.workload import LONGEST_TOKENS, NUM_SLOTS, PROMPT_TOKENS, Generated, Request, answers
from nouscoder_jax.bench.worker import Answers, serve, versions
from nouscoder_jax.rollout.embedded import EmbeddedEngine
from nouscoder_jax.types import Prompt, Sampling

CHUNK_TOKENS = 16


def make(folder: Path) -> tuple[dict[str, Any], Answers]:
    """The engine with the workload's weights; one event loop for all turns."""
    runner = asyncio.Runner()
    engine = EmbeddedEngine.from_directory(
        folder / "model",
        eos_ids=(),
        num_slots=NUM_SLOTS,
        decode_chunk_tokens=CHUNK_TOKENS,
        max_cache_tokens=PROMPT_TOKENS + LONGEST_TOKENS,
        compute_dtype="float32",
        policy_version=0,
        batch_invariant=False,
    )

    async def complete(request: Request) -> Generated:
        sampling = Sampling(
            temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=request.num_tokens, seed=request.seed
        )
        completion = await engine.generate(Prompt(problem_id="", token_ids=request.prompt), sampling)
        return Generated(completion.token_ids, completion.behavior_logprobs)

    async def all_of(requests: list[Request]) -> list[Generated]:
        return await asyncio.gather(*map(complete, requests))

    facts = {"chunk_tokens": CHUNK_TOKENS, "versions": versions("jax")}
    return facts, answers("ours", folder, lambda requests: runner.run(all_of(requests)))


if __name__ == "__main__":
    serve(make)
