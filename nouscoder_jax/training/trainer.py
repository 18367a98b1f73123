"""The device world of a run behind one door: weights, moments, the compiled update, checkpoints and exports.

In: a TrainConfig; then orders, each a method: batches and paths go in. Out: metrics, logprobs, files.

`Trainer` is what the loop knows. `LocalTrainer` carries the orders out on this process's devices. Where the mesh lies
over several processes each has a LocalTrainer, all get the same orders in the same order, and hands.py passes them on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from nouscoder_jax import mesh_fit, sharding
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.hub import find_model
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.attention import check_attention
from nouscoder_jax.model.weights import abstract_model, read_config
from nouscoder_jax.training import export as exports
from nouscoder_jax.training.checkpoint import Checkpointer, Record
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import TrainState, abstract, all_finite, from_folder
from nouscoder_jax.training.update import UpdateMetrics, make_token_logprobs, make_update
from nouscoder_jax.types import Batch


@runtime_checkable
class Trainer(Protocol):
    """Weights that are trained, saved and exported. For one thread at a time, `busy`, `check` and `latest_step`
    included; all but these three may take long."""

    architecture: Architecture

    def open(self, checkpoints: Path) -> None:
        """Keeps the run's checkpoints there from now on. Raises UserError where it cannot be written."""
        ...

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was ever finished there, damaged or not."""
        ...

    def start(self) -> None:
        """Takes the weights that the config names. Raises UserError."""
        ...

    def restore(self, step: int | None) -> Record:
        """Takes the checkpoint of `step`, and sets later ones aside; None: the newest that is whole. Returns what was
        saved with it. Raises UserError."""
        ...

    def update(self, batch: Batch, num_micro_batches: int, old_logprobs: np.ndarray | None) -> UpdateMetrics:
        """One optimizer step; see training/update.py."""
        ...

    def logprobs(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """The weights' own logprobs of `batch.targets` in the first micro-batches, 0 in the others: "rows time"."""
        ...

    def score(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """As `logprobs`, at temperature 1."""
        ...

    def export(self, out_dir: Path, *, policy_version: int) -> None:
        """Writes a Hugging Face directory, complete or not at all. Raises UserError."""
        ...

    def checkpoint(self, step: int, progress: Record, *, pass_at_1: float | None) -> None:
        """Has a checkpoint written in the background. Raises UserError where this or an earlier one failed."""
        ...

    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        ...

    def check(self) -> None:
        """Raises UserError where a checkpoint could not be written."""
        ...

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint."""
        ...

    def close(self) -> None:
        """Waits for what is being written and frees everything. Raises UserError as `check`."""
        ...


class LocalTrainer:
    """The orders, on the devices of this process."""

    def __init__(self, config: TrainConfig, *, say: Callable[[str], None]) -> None:
        """Compiles nothing yet and reads no weights. `say` takes lines for people. Raises UserError: model, mesh."""
        self.config, self.say = config, say
        self.model_folder = find_model(config.model.path)
        self.architecture = Architecture.from_hf(read_config(self.model_folder)).stretched(
            config.model.yarn_factor, original_tokens=config.model.yarn_original_tokens
        )
        check_model(config, self.architecture)
        self.mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
        self.optimizer = make_optimizer(config.optimizer)
        self._update = make_update(config, self.architecture, self.mesh, loss_name=config.loss.name)
        self._token_logprobs = make_token_logprobs(config, self.mesh)
        plain = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, temperature=1.0))
        is_plain = config.rollout.temperature == 1  # one program for both
        self._scores = self._token_logprobs if is_plain else make_token_logprobs(plain, self.mesh)
        self._state: TrainState | None = None
        self._checkpointer: Checkpointer | None = None

    @property
    def state(self) -> TrainState:
        """Weights and moments, after `start` or `restore`."""
        assert self._state is not None, "no weights yet: start() or restore()"
        return self._state

    @property
    def checkpointer(self) -> Checkpointer:
        """After `open`."""
        assert self._checkpointer is not None, "no checkpoints yet: open()"
        return self._checkpointer

    def open(self, checkpoints: Path, *, tidies: bool = True) -> None:
        """As Trainer says; of several processes only one `tidies` the folder."""
        kept = self.config.checkpoint
        self._checkpointer = Checkpointer(
            checkpoints, keep=kept.keep, keep_best=kept.keep_best, tidies=tidies, say=self.say
        )

    def has_checkpoint(self) -> bool:
        """As Trainer says."""
        return not self.checkpointer.is_empty()

    def start(self) -> None:
        """As Trainer says."""
        self._state = from_folder(self.model_folder, self.architecture, self.optimizer, mesh=self.mesh)

    def restore(self, step: int | None) -> Record:
        """As Trainer says."""
        return self.checkpointer.newest_that(self.restore_step, step=step)

    def restore_step(self, step: int) -> Record:
        """Takes the checkpoint of one step. Raises whatever is wrong with it."""
        self._state = None  # two states at once may not fit
        target = abstract(self.architecture, self.optimizer, mesh=self.mesh)
        state, progress = self.checkpointer.restore_step(target, step)
        if not all_finite(state):
            raise UserError("weights or moments in it are not finite")
        self._state = state
        return progress

    def update(self, batch: Batch, num_micro_batches: int, old_logprobs: np.ndarray | None) -> UpdateMetrics:
        """As Trainer says."""
        self._state, metrics = self._update(self.state, batch, num_micro_batches, old_logprobs)
        return metrics

    def logprobs(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """As Trainer says."""
        return self._token_logprobs(self.state.model, batch, num_micro_batches)

    def score(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """As Trainer says."""
        return self._scores(self.state.model, batch, num_micro_batches)

    def export(self, out_dir: Path, *, policy_version: int) -> None:
        """As Trainer says."""
        self._refuse_spoilt(out_dir)
        exports.export(
            self.state.model,
            self.architecture,
            out_dir,
            dtype=self.config.checkpoint.export_dtype,
            tokenizer_dir=self.model_folder,
            policy_version=policy_version,
        )

    def write_share(self, out_dir: Path, *, policy_version: int, process: int, num_processes: int) -> None:
        """This process's share of an export. Raises UserError where it cannot write."""
        self._refuse_spoilt(out_dir)
        exports.write(
            self.state.model,
            self.architecture,
            out_dir,
            dtype=self.config.checkpoint.export_dtype,
            policy_version=policy_version,
            process=process,
            num_processes=num_processes,
        )

    def finish_export(self, out_dir: Path, *, num_processes: int) -> None:
        """Completes what all processes have written. Raises UserError."""
        exports.finish(
            self.architecture,
            out_dir,
            dtype=self.config.checkpoint.export_dtype,
            tokenizer_dir=self.model_folder,
            num_processes=num_processes,
        )

    def checkpoint(self, step: int, progress: Record, *, pass_at_1: float | None) -> None:
        """As Trainer says."""
        self._refuse_spoilt(self.checkpointer.directory / str(step))
        self.checkpointer.save(step, self.state, progress, pass_at_1=pass_at_1)

    def _refuse_spoilt(self, target: Path) -> None:
        """No update makes such weights (training/update.py); should anything else, they go no further."""
        if not all_finite(self.state):
            raise UserError(
                f"{target} is not written: weights or moments are not finite; go on from the newest checkpoint"
            )

    def busy(self) -> bool:
        """As Trainer says."""
        return self.checkpointer.busy()

    def check(self) -> None:
        """As Trainer says."""
        if self._checkpointer is not None:
            self._checkpointer.check()

    def latest_step(self) -> int | None:
        """As Trainer says."""
        return self.checkpointer.latest_step()

    def close(self) -> None:
        """As Trainer says."""
        if self._checkpointer is not None:
            self._checkpointer.close()


def check_model(config: TrainConfig, architecture: Architecture) -> None:
    """Raises UserError where model and mesh do not fit, the context not the model, or the attention not the model, its
    rows or the device."""
    if config.context_tokens > architecture.max_position_embeddings:
        raise UserError(
            f"the longest prompt + completion is {config.context_tokens} tokens (data.max_prompt_tokens + "
            f"max_completion_tokens of rollout or evaluation), the model knows {architecture.max_position_embeddings} "
            "positions; shorten them, or stretch the model: --model.yarn-factor 2.5"
        )
    mesh_fit.check_mesh(config.mesh, mesh_fit.shapes_of(abstract_model(architecture)))
    check_attention(
        config.model.attention,
        platform=jax.devices()[0].platform,
        compute_dtype=config.model.compute_dtype,
        head_dim=architecture.head_dim,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        packed=config.experience.packed_rows,
    )
