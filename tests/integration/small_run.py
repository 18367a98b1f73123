"""A run of three small steps, for tests that kill it: arguments, and an environment in which sessions compile once."""

import os
from pathlib import Path

SIZES = [
    # An update computes 512 tokens instead of 18,432; an evaluation has 8 problems instead of 64.
    "--data.max-prompt-tokens=128",
    "--experience.row-tokens=256",
    "--experience.rows-per-micro-batch=2",
    f"--data.held-out={Path(__file__).with_name('held_out_8.jsonl')}",
]
ARGUMENTS = [
    *SIZES,
    "--num-steps=3",
    "--rollout.groups-per-step=2",
    "--rollout.group-size=4",
    "--rollout.num-slots=16",
    "--rollout.max-completion-tokens=64",
    "--evaluation.samples-per-problem=1",
    "--evaluation.max-completion-tokens=64",
    "--verifier.backend=local",
]


def environment(cache: Path) -> dict[str, str]:
    """On the CPU; programs compiled by one session are in `cache` for the next. Not where all tests have theirs: jax
    writes an entry in place, and a session that is killed would leave half a one to others."""
    own = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "USE_TORCH": "0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    own.pop("XLA_FLAGS", None)
    return own
