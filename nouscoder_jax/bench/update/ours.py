"""This project as a contender of `bench.py update`: packed rows through `training.update.make_update`.

In: the folder of the workload. Out: answers to "update", and to "extras" what packing and the loss itself cost.
"""

from __future__ import annotations

import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from nouscoder_jax import sharding
from nouscoder_jax.bench.update.workload import make_config, read_batch, to_experiences
from nouscoder_jax.bench.worker import Answers, serve, timed
from nouscoder_jax.experience.packing import pack
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.training.objective import make_objective
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import from_model
from nouscoder_jax.training.update import make_update
from nouscoder_jax.types import Batch

_REPEATS = 20


class Ours:
    """The state of training, and the workload's batch in packed rows."""

    def make(self, folder: Path) -> tuple[dict[str, Any], Answers]:
        """Reads the folder; what it can be asked."""
        settings = json.loads((folder / "settings.json").read_text())
        config = self.config = make_config(settings)
        architecture, model = load_model(folder / "model")
        mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
        self.state = from_model(model, architecture, make_optimizer(config.optimizer), mesh=mesh)
        self.experiences = to_experiences(read_batch(folder))
        self.batch, self.num_micro_batches = self.pack()
        update = make_update(config, architecture, mesh, loss_name=config.loss.name)

        def step() -> dict[str, Any]:
            self.state, metrics = update(self.state, self.batch, self.num_micro_batches, None)
            jax.block_until_ready(self.state)
            figures = {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
            return figures | {"num_tokens": settings["num_real_tokens"]}

        return self.facts(), {"update": lambda: timed(step), "extras": self.extras}

    def pack(self) -> tuple[Batch, int]:
        """The batch, and how many of its micro-batches hold anything."""
        experience = self.config.experience
        return pack(
            self.experiences,
            row_tokens=experience.row_tokens,
            rows_per_micro_batch=experience.rows_per_micro_batch,
            max_experiences=len(self.experiences),
            packed_rows=experience.packed_rows,
            policy_version=0,
        )

    def facts(self) -> dict[str, Any]:
        """How the batch lies in rows."""
        experience = self.config.experience
        return {
            "rows_per_micro_batch": experience.rows_per_micro_batch,
            "row_tokens": experience.row_tokens,
            "num_micro_batches": self.num_micro_batches,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
        }

    def extras(self) -> dict[str, Any]:
        """Seconds of packing, and of the objective itself with its gradient, for the whole batch."""
        rows = self.num_micro_batches * self.config.experience.rows_per_micro_batch
        batch = jax.tree.map(lambda array: array[:rows], self.batch)

        objective = make_objective(self.config, loss_name=self.config.loss.name)

        def loss(logprobs: Any, batch: Batch) -> Any:
            measured = objective(logprobs, -logprobs, batch.behavior_logprobs, batch)
            return measured.loss.total, measured

        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        return {
            "pack_s": _median_s(self.pack),
            "loss_s": _median_s(lambda: jax.block_until_ready(gradient(batch.behavior_logprobs, batch))),
        }


def _median_s(function: Callable[[], Any]) -> float:
    function()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    serve(Ours().make)
