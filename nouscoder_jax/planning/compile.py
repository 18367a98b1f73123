"""The training step, compiled ahead of time for GPUs that are not here: bytes a GPU and every collective.

In: a config, an architecture, the devices of a fleet. Out: `Program`. What is compiled is `training.update`'s own
function, from shapes alone: no array is made. With the CUDA plugin (extra `plan`) that is the compiler the GPUs would
run themselves; without it the host's, for as many fake CPU devices, whose memory and collectives are not a GPU's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from nouscoder_jax import sharding
from nouscoder_jax.config import MeshConfig, TrainConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning.fleet import Fleet, target_text
from nouscoder_jax.planning.hlo import Collective, find_collectives
from nouscoder_jax.training import state
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.update import make_update_on_mesh
from nouscoder_jax.types import Batch

_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")

_DTYPES = {
    "loss_mask": jnp.bool_,
    "on_policy": jnp.bool_,
    "behavior_logprobs": jnp.float32,
    "advantages": jnp.float32,
}
"""Of a batch's arrays; the others are int32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A compiled update: what each GPU holds, and what it sends.

    Example:
        Program(row_tokens=40960, rows_per_gpu=1, argument_bytes=11_100_000_000, temp_bytes=26_000_000_000,
                peak_bytes=37_100_000_000, collectives=[], seconds=9.5)
    """

    row_tokens: int
    rows_per_gpu: int
    argument_bytes: int
    """Weights, moments and the batch."""
    temp_bytes: int
    """Everything else that lives while it runs: gradients, activations, gathered weights."""
    peak_bytes: int
    """Arguments, temporaries, and results that do not take an argument's place."""
    collectives: list[Collective]
    seconds: float
    """That compiling took."""


def gpu_compiler_missing() -> str:
    """Why the real GPU compiler cannot be used here; empty: it can."""
    if any(_importable(name) for name in _PLUGINS):
        return ""
    return "the CUDA plugin is not installed (extra `plan`)"


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def gpu_devices(fleet: Fleet) -> list[Any]:
    """The fleet's GPUs, as descriptions to compile for. jax's own platform stays the CPU."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # there is no driver whose version could be checked
    described = topologies.get_topology_desc(
        topology_name=fleet.gpu.name,
        platform="cuda",
        target_config=target_text(fleet.gpu.name),
        topology=fleet.topology,
    )
    return list(described.devices)


def ask_for_host_devices(num_devices: int) -> None:
    """Has jax start with so many fake CPU devices; no effect where it has started: what is there may be enough."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", num_devices)


def host_devices(num_devices: int) -> list[Any]:
    """So many fake CPU devices. Raises ValueError where jax has started with fewer."""
    devices = jax.devices("cpu")
    if len(devices) < num_devices:
        raise ValueError(f"jax has started with {len(devices)} CPU devices; expected {num_devices} before it starts")
    return list(devices[:num_devices])


def with_size(config: TrainConfig, mesh: MeshConfig, *, row_tokens: int, rows_per_gpu: int) -> TrainConfig:
    """The config on another mesh and with other rows; completions shrink where a row is too short for them."""
    most_completion = max(1, row_tokens - config.data.max_prompt_tokens)
    return dataclasses.replace(
        config,
        mesh=dataclasses.replace(mesh, num_processes=1),
        data=dataclasses.replace(config.data, max_prompt_tokens=min(config.data.max_prompt_tokens, row_tokens - 1)),
        rollout=dataclasses.replace(
            config.rollout, max_completion_tokens=min(config.rollout.max_completion_tokens, most_completion)
        ),
        experience=dataclasses.replace(
            config.experience, row_tokens=row_tokens, rows_per_micro_batch=rows_per_gpu * mesh.num_row_shards
        ),
    )


def compile_update(
    config: TrainConfig, architecture: Architecture, *, devices: Sequence[Any], num_micro_batches: int
) -> Program:
    """Compiles the update of `config` for its mesh over `devices`.

    Raises:
        UserError: a mesh that the architecture's dimensions do not divide, or a choice that the config refuses.
    """
    start = time.monotonic()
    mesh = sharding.make_mesh(config.mesh, devices=devices)
    update = make_update_on_mesh(config, architecture, mesh, loss_name=config.loss.name)
    platform = "cpu" if devices[0].platform == "cpu" else "cuda"
    arguments = abstract_arguments(config, architecture, mesh, num_micro_batches=num_micro_batches)
    with jax.set_mesh(mesh):
        compiled = update.trace(*arguments).lower(lowering_platforms=(platform,)).compile()
    memory = compiled.memory_analysis()
    if memory is None:
        raise ValueError("the compiler told no memory; expected memory_analysis() of a compiled function")
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        row_tokens=config.experience.row_tokens,
        rows_per_gpu=config.experience.rows_per_micro_batch // config.mesh.num_row_shards,
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes + memory.temp_size_in_bytes + results,
        collectives=find_collectives(compiled.as_text() or ""),
        seconds=time.monotonic() - start,
    )


def abstract_arguments(
    config: TrainConfig, architecture: Architecture, mesh: Mesh, *, num_micro_batches: int
) -> tuple[Any, ...]:
    """(state, batch, old_logprobs, num_micro_batches) of the update, as shapes that know where they lie."""
    shape = (num_micro_batches, config.experience.rows_per_micro_batch, config.experience.row_tokens)
    layout = NamedSharding(mesh, sharding.MICRO_BATCHES_SPEC)

    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)

    batch: Any = Batch(**{name: array(_DTYPES.get(name, jnp.int32)) for name in Batch._fields})
    whole = state.abstract(architecture, make_optimizer(config.optimizer), mesh=mesh)
    return whole, batch, array(jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
