"""Everything that training carries from update to update.

In: an architecture or a model, the optimizer, a mesh. Out: `TrainState` on that mesh, in three forms of one tree:
arrays (`init`, `from_model`), shapes with shardings (`abstract`), and names (`named_leaves`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, Key

from nouscoder_jax import sharding
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.name_table import abstract_model
from nouscoder_jax.model.qwen3 import Architecture, Qwen3, param_name
from nouscoder_jax.model.weights_reader import WeightsReader


class TrainState(NamedTuple):
    """Weights, moments and the number of updates. A pytree; float32 throughout.

    Example:
        state = from_model(load_model(path)[1], architecture, optimizer, mesh=mesh)
    """

    model: Qwen3
    opt_state: Any
    """optax's state; its moments mirror the model's tree."""
    update_count: Int32[Array, ""]
    """Updates done; also the learning-rate schedule's clock."""


def init(
    architecture: Architecture, optimizer: optax.GradientTransformation, key: Key[Array, ""], *, mesh: Mesh
) -> TrainState:
    """A fresh state with random weights, made where it will lie: no device ever holds a whole copy."""
    make = partial(_init_from_key, architecture, optimizer)
    return jax.jit(make, out_shardings=shardings(architecture, optimizer, mesh=mesh))(key)


def from_model(
    model: Qwen3, architecture: Architecture, optimizer: optax.GradientTransformation, *, mesh: Mesh
) -> TrainState:
    """A fresh state with the given weights (NumPy or jax arrays, the same in every process), which are copied to the
    mesh."""
    layout = shardings(architecture, optimizer, mesh=mesh)
    where: Any = layout.model  # a NamedSharding in place of each array, which its type cannot say
    placed = jax.tree.map(lambda leaf, place: sharding.put(np.asarray(leaf), place), model, where)
    return _with_moments(placed, optimizer, layout)


def _with_moments(model: Any, optimizer: optax.GradientTransformation, layout: Any) -> TrainState:
    opt_state = jax.jit(optimizer.init, out_shardings=layout.opt_state)(model)
    return TrainState(model, opt_state, sharding.put(np.asarray(0, np.int32), layout.update_count))


def from_folder(
    folder: Path, architecture: Architecture, optimizer: optax.GradientTransformation, *, mesh: Mesh
) -> TrainState:
    """A fresh state with the weights of a Hugging Face directory. Each process reads what lies on its devices, a part
    of a parameter at a time. Raises UserError as `WeightsReader` does."""
    layout: Any = shardings(architecture, optimizer, mesh=mesh)
    reader = WeightsReader(folder, architecture)

    def read(path: tuple[Any, ...], leaf: Any, where: Any) -> Array:
        def block(index: Any) -> np.ndarray:
            return reader.block(param_name(path), index)

        return jax.make_array_from_callback(leaf.shape, where, block)

    model = jax.tree.map_with_path(read, abstract_model(architecture), layout.model)
    return _with_moments(model, optimizer, layout)


def abstract(architecture: Architecture, optimizer: optax.GradientTransformation, *, mesh: Mesh) -> TrainState:
    """The state with `jax.ShapeDtypeStruct` leaves that carry their sharding: what a restore aims at."""
    shapes = jax.eval_shape(partial(_init_from_key, architecture, optimizer), jax.random.key(0))

    def with_sharding(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        layout = sharding.state_sharding(param_name(path), leaf.shape, mesh=mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

    return jax.tree.map_with_path(with_sharding, shapes)


def shardings(architecture: Architecture, optimizer: optax.GradientTransformation, *, mesh: Mesh) -> TrainState:
    """The state with a NamedSharding in place of each array."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract(architecture, optimizer, mesh=mesh))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its name, such as `opt_state/1/mu/layers/mlp/up_proj`."""
    return {param_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _init_from_key(
    architecture: Architecture, optimizer: optax.GradientTransformation, key: Key[Array, ""]
) -> TrainState:
    model: Any = qwen3.init(architecture, key)  # a pytree of arrays, which optax's types cannot say
    return TrainState(model, optimizer.init(model), jnp.int32(0))


@jax.jit
def all_finite(tree: Any) -> Array:
    """Whether no number in any array is NaN or infinite: a boolean scalar, the same in every process."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
