"""The mesh, and the strict table that says how every parameter lies on it.

In: `MeshConfig`, devices, parameter names and shapes. Out: a mesh with axes `data`, `fsdp`, `tensor`, and a
PartitionSpec for each parameter, which its gradient and optimizer moments share. The model names no mesh axis; one
device is a mesh like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nouscoder_jax.config import MeshConfig, UserError

AXES = ("data", "fsdp", "tensor")

RULES: tuple[tuple[str, P], ...] = (
    # A layer's matrices: the width over fsdp, heads or the MLP's inner dimension over tensor; dimension 0 is the layer.
    (r"layers/attention/[qkv]_proj", P(None, "fsdp", "tensor", None)),
    (r"layers/attention/o_proj", P(None, "tensor", None, "fsdp")),
    (r"layers/mlp/(gate|up)_proj", P(None, "fsdp", "tensor")),
    (r"layers/mlp/down_proj", P(None, "tensor", "fsdp")),
    # Vocabulary matrices: rows over tensor, the width over fsdp.
    (r"embed_tokens|lm_head", P("tensor", "fsdp")),
    # Biases lie with the heads they are added to.
    (r"layers/attention/[qkv]_bias", P(None, "tensor", None)),
    # Vectors are small: whole on every device.
    (r"layers/attention/o_bias", P()),
    (r"layers/attention/[qk]_norm", P()),
    (r"layers/(attention|mlp)_norm", P()),
    (r"norm", P()),
)
"""Ordered (pattern of the whole parameter name, spec); the first match counts."""

MICRO_BATCHES_SPEC = P(None, ("data", "fsdp"))
"""Arrays of "micro_batches rows time": each micro-batch is spread over all row shards."""


def make_mesh(config: MeshConfig, *, devices: Sequence[Any]) -> Mesh:
    """The mesh data x fsdp x tensor over the first devices. Raises UserError where there are too few.

    Axes are Auto: the compiler places what the table leaves open (jax's default is Explicit, under which embedding
    look-ups must state their own sharding).
    """
    if len(devices) < config.num_devices:
        raise UserError(
            f"the mesh data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} needs {config.num_devices} "
            f"devices, found {len(devices)}; lower --mesh.data, --mesh.fsdp or --mesh.tensor"
        )
    return jax.make_mesh(
        (config.data, config.fsdp, config.tensor),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices[: config.num_devices],
    )


def param_name(path: tuple[Any, ...]) -> str:
    """A parameter's name from its pytree path, as `layers/attention/q_proj`: NNX's trailing `value` is dropped.

    Nobody else parses paths. Works on any pytree that holds the model, e.g. `0/mu/layers/mlp/up_proj` in optax state.
    """
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if parts and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def rule(name: str) -> P:
    """The spec of a parameter by the table. Raises UserError where it has none."""
    spec = next((spec for pattern, spec in RULES if re.fullmatch(pattern, name)), None)
    if spec is None:
        raise UserError(f"parameter {name} has no rule in nouscoder_jax/sharding.py; add one to RULES")
    return spec


def partition_spec(name: str, shape: tuple[int, ...], *, mesh: Mesh) -> P:
    """The spec of a parameter by the table.

    Raises:
        UserError: no rule for the name, or a dimension that its mesh axis does not divide.
    """
    spec = rule(name)
    if len(spec) > len(shape):
        raise UserError(f"parameter {name} has {len(shape)} dimensions, its rule {spec} in RULES has {len(spec)}")
    for dim, axis in enumerate(spec):
        if axis is not None and shape[dim] % mesh.shape[axis]:
            raise UserError(
                f"parameter {name}: dimension {dim} is {shape[dim]}, which mesh axis {axis} = {mesh.shape[axis]} does "
                f"not divide; set --mesh.{axis} to a divisor of {shape[dim]}"
            )
    return spec


def specs_of(model: Any, *, mesh: Mesh) -> Any:
    """The model's tree with each parameter's spec in its place. Raises UserError as `partition_spec` does."""
    return jax.tree.map_with_path(lambda path, leaf: partition_spec(param_name(path), leaf.shape, mesh=mesh), model)


def state_sharding(name: str, shape: tuple[int, ...], *, mesh: Mesh) -> NamedSharding:
    """The sharding of any leaf of a training state, whose name may have a prefix, such as `opt_state/1/0/mu/`.

    Scalars, and the rows and columns of factored moments, are whole everywhere; everything else must end in the name
    of a parameter, as model and moments do.
    """
    if shape == () or not {"v_row", "v_col", "v"}.isdisjoint(name.split("/")):
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, partition_spec(_without_prefix(name), shape, mesh=mesh))


def _without_prefix(name: str) -> str:
    """The parameter's own name: what follows the container that a training state puts it in."""
    parts = name.split("/")
    for container in ("model", "mu", "nu", "ema"):
        if container in parts:
            return "/".join(parts[parts.index(container) + 1 :])
    return name


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def put_micro_batches(arrays: Any, *, mesh: Mesh) -> Any:
    """Host arrays "micro_batches rows time" as global arrays. Every process gives the whole of them and puts there what
    lies on its own devices, so that rows, weights and heads may be split over processes alike."""
    return jax.tree.map(lambda array: put(array, NamedSharding(mesh, MICRO_BATCHES_SPEC)), arrays)


def put(array: np.ndarray, where: NamedSharding) -> jax.Array:
    """A host array, the same in every process, as a global array. Nothing is shared with `array`."""
    return jax.make_array_from_callback(array.shape, where, lambda index: np.array(array[index]))


def whole(array: jax.Array) -> np.ndarray:
    """A global array that is whole on every device, on the host."""
    return np.asarray(array.addressable_data(0))
