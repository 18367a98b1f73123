"""Exports: the policy as a Hugging Face directory, for the engine during a run and for everyone after it.

In: a model, or a run folder with checkpoints. Out: config.json, safetensors and tokenizer files in one folder that
appears complete or not at all.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import jax

from nouscoder_jax import sharding
from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.model.weights import read_config, save_model
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import abstract

KEPT_VERSIONS = 2
"""Versions of weights that stay in a run folder: the one that the engine serves and the one that it loads next."""


def version_dir(root: Path, policy_version: int) -> Path:
    """Folder of one version's weights."""
    return Path(root) / f"policy-{policy_version:06d}"


def export(
    model: Qwen3,
    architecture: Architecture,
    out_dir: Path,
    *,
    dtype: Literal["float32", "bfloat16"],
    tokenizer_dir: Path | None,
) -> None:
    """Writes `out_dir` with the weights in `dtype` and the tokenizer's files; it appears complete or not at all."""
    save_model(jax.device_get(model), architecture, out_dir, dtype=dtype, tokenizer_dir=tokenizer_dir)


def prune(root: Path) -> None:
    """Deletes all versions in `root` but the newest KEPT_VERSIONS."""
    versions = sorted(Path(root).glob("policy-*"))
    for stale in versions[:-KEPT_VERSIONS]:
        shutil.rmtree(stale)


def convert_run(run_dir: Path, out_dir: Path, *, dtype: Literal["float32", "bfloat16"]) -> int:
    """Writes the policy of a run's newest checkpoint as a Hugging Face directory; returns the checkpoint's step.

    `run_dir` has config.json (TrainConfig.to_json) and checkpoints/; architecture and tokenizer come from its export/,
    its newest weights/policy-*, or the model that it started from, the first of them that is there.

    Raises:
        UserError: no such run, nothing to convert, a damaged checkpoint, or an `out_dir` that already holds something.
    """
    run_dir, out_dir = Path(run_dir), Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir} already holds something; give --out a folder that does not exist or is empty")
    config_file = run_dir / "config.json"
    if not config_file.is_file():
        raise UserError(f"{run_dir} is no run folder: it has no config.json; give the --run-dir of a training run")
    config = TrainConfig.from_json(config_file.read_text())
    source = _described_model(run_dir, config)
    architecture = Architecture.from_hf(read_config(source))
    if not (run_dir / "checkpoints").is_dir():
        raise UserError(f"{run_dir} has no checkpoints folder; give a run that has saved a checkpoint")
    one_device = MeshConfig(data=1, fsdp=1, tensor=1, num_processes=1, coordinator_address="")
    mesh = sharding.make_mesh(one_device, devices=jax.devices())
    target = abstract(architecture, make_optimizer(config.optimizer), mesh=mesh)
    with Checkpointer(run_dir / "checkpoints", keep=config.checkpoint.keep) as checkpointer:
        step = checkpointer.latest_step()
        state, _ = checkpointer.restore(target, step=step)
    if out_dir.exists():
        out_dir.rmdir()
    export(state.model, architecture, out_dir, dtype=dtype, tokenizer_dir=source)
    return step or 0


def _described_model(run_dir: Path, config: TrainConfig) -> Path:
    """A Hugging Face directory of this run's model, whatever its weights: for config.json and tokenizer."""
    versions = sorted((run_dir / "weights").glob("policy-*"), reverse=True)
    for folder in (run_dir / "export", *versions, Path(config.model.path)):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"{run_dir} has no exported weights and its model.path {config.model.path} is not here: the tokenizer and "
        "config.json cannot be found; put the model back where it was"
    )
