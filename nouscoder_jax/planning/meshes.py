"""Which mesh a number of GPUs gets, and what it holds on each of them, without compiling.

In: an architecture and a number of GPUs. Out: meshes that the sharding table allows, least memory first, and the bytes
of weights, moments and gradients on each GPU.
"""

from __future__ import annotations

from jax.sharding import AbstractMesh

from nouscoder_jax import sharding
from nouscoder_jax.config import MeshConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import abstract_model
from nouscoder_jax.planning.sizes import parameter_count
from nouscoder_jax.training.state import named_leaves

STATE_BYTES = 12
"""Bytes a parameter that always live: float32 weight and two moments."""

GRADIENT_BYTES = 4
"""Bytes a parameter of the gradients' running sum."""


def find_meshes(a: Architecture, num_gpus: int) -> list[MeshConfig]:
    """Meshes data x fsdp of so many GPUs that the sharding table allows, least memory a GPU first.

    Tensor stays 1: it saves no memory that fsdp does not, and costs a collective in every layer.
    """
    shapes = _shapes(a)
    meshes = []
    for fsdp in range(num_gpus, 0, -1):
        if num_gpus % fsdp == 0 and _allowed(shapes, fsdp):
            meshes.append(
                MeshConfig(data=num_gpus // fsdp, fsdp=fsdp, tensor=1, num_processes=1, coordinator_address="")
            )
    return meshes


def choose_mesh(a: Architecture, wanted: MeshConfig, num_gpus: int) -> MeshConfig:
    """The wanted mesh where it is one of so many GPUs, else the one with the least memory a GPU.

    Raises:
        UserError: the sharding table does not allow the wanted mesh; with those of as many GPUs that it does.
    """
    if wanted.num_devices != num_gpus:
        return find_meshes(a, num_gpus)[0]
    shapes = _shapes(a)
    mesh = AbstractMesh((wanted.data, wanted.fsdp, wanted.tensor), sharding.AXES)
    try:
        _check(shapes, mesh)
    except UserError as error:
        fitting = ", or ".join(shown(one) for one in find_meshes(a, num_gpus)[:3])
        raise UserError(f"{error}; meshes of {num_gpus} GPUs that fit, least memory first: {fitting}") from error
    return wanted


def _shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in named_leaves(abstract_model(a)).items()}


def _check(shapes: dict[str, tuple[int, ...]], mesh: AbstractMesh) -> None:
    for name, shape in shapes.items():
        sharding.partition_spec(name, shape, mesh=mesh)  # pyright: ignore[reportArgumentType]


def _allowed(shapes: dict[str, tuple[int, ...]], fsdp: int) -> bool:
    try:
        _check(shapes, AbstractMesh((1, fsdp, 1), sharding.AXES))
    except UserError:
        return False
    return True


def state_bytes(a: Architecture, mesh: MeshConfig) -> int:
    """Bytes of weights, moments and gradients on each GPU: a bound from below of what an update takes."""
    return (STATE_BYTES + GRADIENT_BYTES) * parameter_count(a) // (mesh.fsdp * mesh.tensor)


def peak_on(a: Architecture, mesh: MeshConfig, *, measured: MeshConfig, peak_bytes: int) -> int:
    """Peak of another mesh with the same rows a GPU, from that of a compiled one: shards grow or shrink, what
    activations take stays."""
    return peak_bytes + state_bytes(a, mesh) - state_bytes(a, measured)


def shown(mesh: MeshConfig) -> str:
    """A mesh for people, and as options."""
    return f"--mesh.data {mesh.data} --mesh.fsdp {mesh.fsdp} --mesh.tensor {mesh.tensor}"
