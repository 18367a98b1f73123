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
"""Exports that stay in a run's export folder: the one that the engine serves and the one that it loads next."""


def version_dir(export_root: Path, policy_version: int) -> Path:
    """Folder of one version's weights."""
    return Path(export_root) / f"policy-{policy_version:06d}"


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


def prune(export_root: Path) -> None:
    """Deletes all versions in `export_root` but the newest KEPT_VERSIONS."""
    versions = sorted(Path(export_root).glob("policy-*"))
    for stale in versions[:-KEPT_VERSIONS]:
        shutil.rmtree(stale)


def convert_run(run_dir: Path, out_dir: Path, *, dtype: Literal["float32", "bfloat16"]) -> int:
    """Writes the policy of a run's newest checkpoint as a Hugging Face directory; returns the checkpoint's step.

    `run_dir` has config.json (TrainConfig.to_json), checkpoints/ and export/, whose newest version gives architecture
    and tokenizer.

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
    source = _newest_export(run_dir / "export", config)
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


def _newest_export(export_root: Path, config: TrainConfig) -> Path:
    """The run's newest export, else the folder that it started from: both hold the architecture and the tokenizer."""
    versions = sorted(export_root.glob("policy-*"))
    if versions:
        return versions[-1]
    if (Path(config.model.path) / "config.json").is_file():
        return Path(config.model.path)
    raise UserError(f"{export_root} has no export to take config.json and tokenizer from; the run is incomplete")
