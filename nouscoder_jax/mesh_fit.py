"""Which meshes a model fits, and what its training state takes on each.

In: parameter shapes by name, a number of devices or a `MeshConfig`. Out: meshes that every dimension divides by, least
memory first; or a refusal that names the dimension and the nearest meshes that do fit. Everything follows from the
table in sharding.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from nouscoder_jax.config import MeshConfig, UserError
from nouscoder_jax.sharding import param_name, rule

Shapes = dict[str, tuple[int, ...]]
"""Shape of each parameter by its name, as `layers/mlp/up_proj: (40, 5120, 17408)`."""

BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments, float32 each."""

NUM_NAMED = 3
"""Meshes of the same number of devices that a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshChoice:
    """A mesh that a model fits.

    Example:
        MeshChoice(data=3, fsdp=16, tensor=1, state_bytes=14_774_681_600)
    """

    data: int
    fsdp: int
    tensor: int
    state_bytes: int
    """Weights, gradients and moments on one device, in float32."""

    @property
    def num_devices(self) -> int:
        """Devices of the mesh."""
        return self.data * self.fsdp * self.tensor

    @property
    def num_row_shards(self) -> int:
        """Groups of devices with rows of their own; `experience.rows_per_micro_batch` must be a multiple of it."""
        return self.data * self.fsdp

    def __str__(self) -> str:
        return f"data {self.data} x fsdp {self.fsdp} x tensor {self.tensor} ({self.state_bytes / 1e9:.1f} GB a device)"


def shapes_of(model: Any) -> Shapes:
    """The shapes of a model's parameters, of arrays or of `jax.eval_shape`'s descriptions."""
    return {param_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(model)}


def state_bytes(shapes: Shapes, *, fsdp: int, tensor: int) -> int:
    """Bytes of weights, gradients and moments on one device of a mesh that fits; replicas (`data`) save nothing."""
    ways = {"fsdp": fsdp, "tensor": tensor, None: 1}
    return BYTES_PER_PARAMETER * sum(
        math.prod(shape) // math.prod(ways[axis] for axis in rule(name)) for name, shape in shapes.items()
    )


def fitting_meshes(shapes: Shapes, num_devices: int) -> list[MeshChoice]:
    """Every mesh of exactly so many devices that the model fits, least memory a device first.

    Where two take the same, the one with less `tensor` comes first: it sends less. There is always one: `data` alone.
    """
    sizes = _split_sizes(shapes)
    choices = [
        MeshChoice(
            data=num_devices // (fsdp * tensor),
            fsdp=fsdp,
            tensor=tensor,
            state_bytes=state_bytes(shapes, fsdp=fsdp, tensor=tensor),
        )
        for fsdp in _divisors(math.gcd(num_devices, sizes["fsdp"]))
        for tensor in _divisors(math.gcd(num_devices // fsdp, sizes["tensor"]))
    ]
    return sorted(choices, key=lambda choice: (choice.state_bytes, choice.tensor))


def nearest_meshes(shapes: Shapes, num_devices: int) -> list[MeshChoice]:
    """What to take instead of a mesh that does not fit: the best of the same number of devices, then the best of the
    nearest smaller and of the nearest larger number that takes less memory a device."""
    nearest = fitting_meshes(shapes, num_devices)[:NUM_NAMED]
    limit = nearest[0].state_bytes
    for numbers in (range(num_devices - 1, 0, -1), range(num_devices + 1, 4 * num_devices + 1)):
        best = (fitting_meshes(shapes, number)[0] for number in numbers)
        nearest += [choice for choice in best if choice.state_bytes < limit][:1]
    return nearest


def check_mesh(mesh: MeshConfig, shapes: Shapes) -> None:
    """Raises UserError where a mesh axis does not divide a dimension that the table splits over it; the error names the
    first such dimension and `nearest_meshes`."""
    ways = {"fsdp": mesh.fsdp, "tensor": mesh.tensor}
    split = ((name, dim, axis) for name in shapes for dim, axis in enumerate(rule(name)) if axis is not None)
    misfit = next(((name, dim, axis) for name, dim, axis in split if shapes[name][dim] % ways[axis]), None)
    if misfit is None:
        return
    name, dim, axis = misfit
    named = nearest_meshes(shapes, mesh.num_devices)
    same = [str(choice) for choice in named if choice.num_devices == mesh.num_devices]
    other = [f"{choice.num_devices} as {choice}" for choice in named if choice.num_devices != mesh.num_devices]
    raise UserError(
        f"the mesh data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor} does not fit: mesh.{axis} = "
        f"{getattr(mesh, axis)} does not divide dimension {dim} of {name}, {shapes[name][dim]}. {mesh.num_devices} "
        f"devices fit as {', '.join(same)}; {'; '.join(other)}. experience.rows_per_micro_batch must be a multiple of "
        "data x fsdp"
    )


def _split_sizes(shapes: Shapes) -> dict[str, int]:
    """By axis, the number whose divisors divide every dimension that the table splits over it."""
    sizes = {"fsdp": 0, "tensor": 0}
    for name, shape in shapes.items():
        for dim, axis in enumerate(rule(name)):
            if axis is not None:
                sizes[axis] = math.gcd(sizes[axis], shape[dim])
    return sizes


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
