"""The policy in a run's checkpoint, array by array: neither the optimizer's moments nor the whole model are read.

In: a run folder, which checkpoint of it. Out: `RunWeights`: architecture, dtypes, and its tensors a few layers at a
time, as Orbax's chunks allow: those of an older checkpoint may span all layers of a parameter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.manifest import DTYPES
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.blocks import Job
from nouscoder_jax.model.chunks import CHUNK_BYTES
from nouscoder_jax.model.name_table import NAME_TABLE, abstract_model, to_hf
from nouscoder_jax.model.qwen3 import param_name
from nouscoder_jax.model.weights import read_config
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training import checkpoint_folder as checkpoints
from nouscoder_jax.training.export import version_dirs
from nouscoder_jax.training.hf_writer import HfWriter


@dataclass(frozen=True, kw_only=True)
class RunWeights:
    """The policy of one checkpoint, not read yet.

    Example:
        RunWeights(folder=Path("runs/mine/checkpoints/8"), step=8, described=Path("runs/mine/export"),
                   architecture=Architecture(...), arrays={"norm": tensorstore.open(...).result()})
    """

    folder: Path
    """Of the checkpoint."""
    step: int
    described: Path
    """A Hugging Face directory of this model, whatever its weights: tokenizer and token ids."""
    architecture: Architecture
    arrays: dict[str, Any]
    """tensorstore's, by our names."""

    @property
    def dtypes(self) -> dict[str, str]:
        """Of our parameters."""
        return {name: array.dtype.name for name, array in self.arrays.items()}

    def jobs(self, writer: HfWriter) -> Iterator[Job]:
        """Everything to do so that `writer` has all tensors."""
        for name, array in self.arrays.items():
            step = array.chunk_layout.read_chunk.shape[0]
            row_bytes = array.size // array.shape[0] * DTYPES[array.dtype.name].itemsize
            step *= max(1, CHUNK_BYTES // (step * row_bytes))
            for first in range(0, array.shape[0], step):
                end = min(first + step, array.shape[0])
                yield Job((end - first) * row_bytes, partial(self._write, writer, name, first, end))

    def _write(self, writer: HfWriter, name: str, first: int, end: int) -> None:
        """Hands over some layers of a parameter, or some rows of one that has no layers."""
        entry = NAME_TABLE[name]
        try:
            found = np.asarray(self.arrays[name][first:end].read().result())
        except Exception as error:  # tensorstore raises ValueError, OSError and others for damaged files
            raise _damaged(self.folder, name, error) from error
        if "{layer}" not in entry.hf_name:
            row_bytes = found[:1].nbytes
            writer.write(entry.hf_name, first * row_bytes, np.ascontiguousarray(found), source=self.folder)
            return
        for at, layer in enumerate(found):
            theirs = np.ascontiguousarray(to_hf(layer, entry))
            writer.write(entry.hf_name.format(layer=first + at), 0, theirs, source=self.folder)


def open_run(run_dir: Path, *, step: int | str) -> RunWeights:
    """The policy of a run's checkpoint: `step` is its number, "latest" or "best" (by held-out pass@1).

    `run_dir` has config.json (TrainConfig.to_json) and checkpoints/; architecture and tokenizer come from its export/,
    its newest weights/policy-*, or the model that it started from, the first of them that is there.

    Raises:
        UserError: no such run, no such checkpoint, a damaged one.
    """
    config = RunFolder(path=run_dir).read_config(option="to-hf")
    run = RunFolder.of(run_dir, config)
    if not run.checkpoints.is_dir():
        raise UserError(f"{run_dir} has no checkpoints folder; give a run that has saved a checkpoint")
    described = _described_model(run, config)
    architecture = Architecture.from_hf(read_config(described)).stretched(
        config.model.yarn_factor, original_tokens=config.model.yarn_original_tokens
    )
    found = _choose(run.checkpoints, step)
    folder = run.checkpoints / str(found)
    arrays = _open_arrays(folder, architecture)
    return RunWeights(folder=folder, step=found, described=described, architecture=architecture, arrays=arrays)


def _choose(directory: Path, step: int | str) -> int:
    scores = checkpoints.complete_scores(directory)
    torn = [number for number in checkpoints.steps(directory) if number not in scores]
    if step == "best":
        best = checkpoints.best(scores, number=1)
        if not best:
            raise UserError(f"no checkpoint in {directory} has a held-out pass@1; give --step latest or a number")
        return best[0]
    wanted = max(scores, default=max(torn, default=None)) if step == "latest" else step
    if isinstance(wanted, int) and wanted in torn:
        folder = directory / str(wanted)
        raise UserError(f"checkpoint {folder} is damaged ({checkpoints.damage(folder)}); use another one")
    if not isinstance(wanted, int) or wanted not in scores:
        there = ", ".join(map(str, scores)) or "none"
        raise UserError(f"no complete checkpoint {step} in {directory}; complete are: {there}")
    return wanted


def _open_arrays(folder: Path, architecture: Architecture) -> dict[str, Any]:
    """Every parameter, opened as Orbax says that it was written. Raises UserError where one is missing or misshapen."""
    state = (folder / "state").absolute()
    try:
        metadata = json.loads((state / "_METADATA").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {state / '_METADATA'} ({error}); use another checkpoint") from error
    found = {}
    for leaf_path, leaf in jax.tree.leaves_with_path(abstract_model(architecture)):
        name, shape = param_name(leaf_path), leaf.shape
        path = f"model/{name}/"
        if metadata.get("use_ocdbt"):
            store = {"driver": "ocdbt", "base": f"file://{state}/", "path": path}
        else:
            store = {"driver": "file", "path": str(state / path)}
        driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
        try:
            array = tensorstore.open({"driver": driver, "kvstore": store, "open": True}).result()
        except Exception as error:  # as when it is read
            raise _damaged(folder, name, error) from error
        if array.shape != shape or array.dtype.name not in DTYPES:
            raise UserError(
                f"checkpoint {folder}: parameter {name} is {array.dtype.name} {array.shape}; its model's config.json "
                f"asks for {shape}: is it of another model?"
            )
        found[name] = array
    return found


def _damaged(folder: Path, name: str, error: Exception) -> UserError:
    why = checkpoints.first_line(error)
    return UserError(
        f"checkpoint {folder} is damaged: parameter {name} ({NAME_TABLE[name].hf_name}) cannot be read ({why}); use "
        "another one"
    )


def _described_model(run: RunFolder, config: TrainConfig) -> Path:
    """A Hugging Face directory of this run's model, whatever its weights: for config.json and tokenizer."""
    for folder in (run.export, *version_dirs(run.weights), Path(config.model.path)):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"{run.path} has no exported weights and its model.path {config.model.path} is not here: the tokenizer and "
        "config.json cannot be found; put the model back where it was"
    )
