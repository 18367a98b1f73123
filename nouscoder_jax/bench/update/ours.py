"""This project as a contender of `bench.py update`: packed rows through `training.update.make_update`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from nouscoder_jax import sharding
from nouscoder_jax.bench.update.workload import make_config, read_batch, to_experiences
from nouscoder_jax.bench.worker import Answers, serve, timed, versions
from nouscoder_jax.experience.packing import pack
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import from_model
from nouscoder_jax.training.update import make_update


def make(folder: Path) -> tuple[dict[str, Any], Answers]:
    """The state of training, the workload's batch in packed rows, and an update of it."""
    settings = json.loads((folder / "settings.json").read_text())
    config = make_config(settings)
    architecture, model = load_model(folder / "model")
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    state = from_model(model, architecture, make_optimizer(config.optimizer), mesh=mesh)
    experiences = to_experiences(read_batch(folder))
    batch, num_micro_batches = pack(
        experiences,
        row_tokens=config.experience.row_tokens,
        rows_per_micro_batch=config.experience.rows_per_micro_batch,
        max_experiences=len(experiences),
        packed_rows=config.experience.packed_rows,
        policy_version=0,
    )
    update = make_update(config, architecture, mesh, loss_name=config.loss.name)

    def step() -> dict[str, Any]:
        nonlocal state
        state, metrics = update(state, batch, num_micro_batches, None)
        jax.block_until_ready(state)
        return {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "work": settings["num_real_tokens"]}

    names = ("row_tokens", "rows_per_micro_batch")
    facts = {name: settings[name] for name in names} | {"num_micro_batches": num_micro_batches}
    return facts | {"versions": versions("jax", "flax")}, {"turn": lambda: timed(step)}


if __name__ == "__main__":
    serve(make)
