"""A run of three small steps, for tests that kill it: arguments, and an environment in which sessions compile once."""

import os
from pathlib import Path

ARGUMENTS = [
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
    """On the CPU; programs compiled by one session are in `cache` for the next."""
    own = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "USE_TORCH": "0",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    own.pop("XLA_FLAGS", None)
    return own
