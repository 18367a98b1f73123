"""What to type for what was planned.

In: a config, a mesh and rows a GPU, a placement. Out: the config of such a run, which refuses what the loop cannot run,
and commands, for people, that make it of the config file.
"""

from __future__ import annotations

import dataclasses
import math

from nouscoder_jax import cli
from nouscoder_jax.config import MeshConfig, TrainConfig
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, machines


def sized(config: TrainConfig, mesh: MeshConfig, *, rows_per_gpu: int) -> TrainConfig:
    """The config on this mesh, a process a machine, with so many rows a GPU in a micro-batch. Raises ValueError."""
    own = dataclasses.replace(mesh, num_processes=machines(mesh.num_devices), coordinator_address="")
    rows = rows_per_gpu * mesh.num_row_shards
    return dataclasses.replace(
        config,
        min_gpus=min(config.min_gpus, mesh.num_devices),
        mesh=own,
        experience=dataclasses.replace(config.experience, rows_per_micro_batch=rows),
    )


def placed(
    config: TrainConfig,
    *,
    kind: str,
    generate_gpus: int,
    engine_gpus: int,
    trainer_memory_fraction: float,
    engine_memory_fraction: float,
) -> TrainConfig:
    """The config with SGLang servers beside or on the trainer's GPUs, `engine_gpus` each. Raises ValueError where the
    loop cannot run it."""
    colocated = kind == "colocated"
    return dataclasses.replace(
        config,
        rollout=dataclasses.replace(
            config.rollout, engine="sglang", max_staleness=0 if colocated else config.rollout.max_staleness
        ),
        server=dataclasses.replace(
            config.server,
            device="cuda",
            placement=kind,
            num_servers=min(generate_gpus, GPUS_PER_MACHINE) // engine_gpus,
            tensor=engine_gpus,
            memory_saver=False,
            memory_fraction=_down(engine_memory_fraction),
            # What the trainer takes has room below it: the two stay within what a plan lets programs take.
            trainer_memory_fraction=_up(trainer_memory_fraction) if colocated else _down(trainer_memory_fraction),
        ),
    )


def lines(file_config: TrainConfig, planned: TrainConfig, *, config_path: str, generate_gpus: int) -> list[str]:
    """Commands that run `planned` from the config file, each with where it is typed. On one machine the run starts its
    servers itself."""
    changed = " ".join(cli.options_between(file_config, planned))
    train_machines, generate_machines = machines(planned.mesh.num_devices), machines(generate_gpus)
    alone = train_machines == 1 and planned.mesh.num_devices + generate_gpus <= GPUS_PER_MACHINE
    if alone or (planned.server.placement == "colocated" and train_machines == 1):
        return [f"python scripts/train.py --config {config_path} {changed}".rstrip()]
    serve = f"python scripts/serve.py --config {config_path} --server.host 0.0.0.0 {changed}".rstrip()
    train = f"python scripts/train.py --config {config_path} --rollout.urls http://SERVER:PORT ... {changed}".rstrip()
    if train_machines > 1:
        train += " --mesh.coordinator-address HEAD:PORT"
    return [
        f"on each of {generate_machines} that generate: {serve}",
        f"on each of {train_machines} that train: {train}",
    ]


def _down(share: float) -> float:
    return math.floor(share * 100) / 100


def _up(share: float) -> float:
    return math.ceil(share * 100) / 100
