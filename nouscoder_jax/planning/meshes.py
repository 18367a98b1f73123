"""The mesh of a plan, and what the training state takes on it, without compiling.

In: an architecture, the config's mesh, a number of GPUs. Out: `MeshConfig`s, least memory first, and bytes a GPU; all
from `mesh_fit`.
"""

from __future__ import annotations

from functools import lru_cache

from nouscoder_jax import mesh_fit
from nouscoder_jax.config import MeshConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import abstract_model


@lru_cache(maxsize=8)
def _shapes(a: Architecture) -> mesh_fit.Shapes:
    return mesh_fit.shapes_of(abstract_model(a))


@lru_cache(maxsize=256)
def find_meshes(a: Architecture, num_gpus: int) -> tuple[MeshConfig, ...]:
    """Meshes of so many GPUs that the sharding table allows, least memory a GPU first, then least `tensor`."""
    return tuple(
        MeshConfig(data=one.data, fsdp=one.fsdp, tensor=one.tensor, num_processes=1, coordinator_address="")
        for one in mesh_fit.fitting_meshes(_shapes(a), num_gpus)
    )


def choose_mesh(a: Architecture, wanted: MeshConfig, num_gpus: int) -> MeshConfig:
    """The wanted mesh where it is one of so many GPUs, else the one with the least memory a GPU.

    Raises:
        UserError: the sharding table does not allow the wanted mesh; names those that it does.
    """
    if wanted.num_devices != num_gpus:
        return find_meshes(a, num_gpus)[0]
    mesh_fit.check_mesh(wanted, _shapes(a))
    return wanted


def state_bytes(a: Architecture, mesh: MeshConfig) -> int:
    """Bytes of weights, moments and gradients on each GPU: a bound from below of what an update takes."""
    return mesh_fit.state_bytes(_shapes(a), fsdp=mesh.fsdp, tensor=mesh.tensor)


def peak_on(a: Architecture, mesh: MeshConfig, *, measured: MeshConfig, peak_bytes: int) -> int:
    """Peak of another mesh with the same rows a GPU, from that of a compiled one: shards grow or shrink, what
    activations take stays."""
    return peak_bytes + state_bytes(a, mesh) - state_bytes(a, measured)


def shown(mesh: MeshConfig) -> str:
    """A mesh as options."""
    return f"--mesh.data {mesh.data} --mesh.fsdp {mesh.fsdp} --mesh.tensor {mesh.tensor}"
