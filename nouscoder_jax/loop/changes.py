"""Which differences between two configs change what a run means.

In: the config that a run has, the one it is to go on with, and what its problem files hold. Out: the differences that
matter, in words; a hash of all that decides what a group or a batch is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.store import content_hash

_OF_NO_BATCH = (
    "name", "run_dir", "num_steps", "min_gpus", "fallback_config", "mesh", "server", "evaluation", "checkpoint",
    "logging", "rollout.source_url", "rollout.engine", "rollout.urls", "rollout.num_slots",
    "rollout.decode_chunk_tokens", "rollout.batch_invariant", "rollout.on_new_weights", "rollout.request_timeout_s",
    "rollout.server_timeout_s", "rollout.outage_limit_s", "data.held_out", "verifier.backend", "verifier.docker_hosts",
    "verifier.image", "verifier.runtime", "verifier.num_workers", "verifier.rollouts_per_sandbox",
    "verifier.max_retries", "verifier.outage_limit_s", "loss.max_drift", "loss.max_drift_mean", "optimizer.max_skipped",
)  # fmt: skip
"""Sections and fields of a config that may change without a group or a batch becoming another one."""

_OF_THE_CURVE = ("evaluation", "data.held_out")
"""Those of them that make the run's held-out figures other ones."""

FILES = ("data.problems", "data.held_out")
"""Fields that name a file whose content counts."""


def config_hash(config: TrainConfig) -> str:
    """Stands for all that decides what a group or a batch is."""
    fields = {name: value for name, value in config.flatten().items() if not _among(name, _OF_NO_BATCH)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def changes(before: TrainConfig, after: TrainConfig) -> list[str]:
    """The fields that differ and matter, each with both values; where a problem file lies does not."""
    old, new = before.flatten(), after.flatten()
    return [
        f"{name} {json.dumps(old[name])} -> {json.dumps(value)}"
        for name, value in new.items()
        if old[name] != value
        and name not in FILES
        and (not _among(name, _OF_NO_BATCH) or (_among(name, _OF_THE_CURVE) and name != "evaluation.every_steps"))
    ]


def hash_files(config: TrainConfig) -> dict[str, str]:
    """SHA-256 of each file of FILES. Raises OSError."""
    fields = config.flatten()
    return {name: content_hash(Path(fields[name])) for name in FILES}


def _among(name: str, fields: tuple[str, ...]) -> bool:
    return name in fields or name.partition(".")[0] in fields
