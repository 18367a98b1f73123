"""Every collective of the forward and backward pass, as one device calls it.

In: one device's arrays, inside `jax.shard_map` over the mesh of sharding.py. Out: arrays of that device. The model
calls these methods and names no mesh axis; on one device all of them do nothing.

    weights      gathered over fsdp in the compute dtype, a layer at a time
    gradients    of weights: computed in float32, summed and scattered over fsdp in float32; over data once an update
    activations  split over tensor as in Megatron-LM (arXiv:1909.08053): x is copied into a block, all-reduced out of it
    embedding    each device looks up its columns for the tokens of all of fsdp: neither table nor gradient is gathered
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Int

from nouscoder_jax.logprobs import VocabShards
from nouscoder_jax.sharding import param_name, rule


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Sizes of the axes that weights are split over. Hashable: static under jit.

    Example:
        Parallel(fsdp=16, tensor=1)
    """

    fsdp: int
    tensor: int

    def all_gather(self, layer: Any, dtype: DTypeLike) -> Any:
        """Returns a layer's weights whole over fsdp, from shards. They are float32 by type but moved, and so rounded,
        in `dtype`; the gradient that arrives at the shards is summed and scattered in float32."""
        if self.fsdp == 1:
            return layer

        def whole(path: tuple[Any, ...], shard: Array) -> Array:
            spec = rule(f"layers/{param_name(path)}")[1:]  # without the dimension of layers
            return _gather(shard, spec.index("fsdp"), jnp.dtype(dtype)) if "fsdp" in spec else shard

        return jax.tree.map_with_path(whole, layer)

    def copy_to_tensor(self, x: Array) -> Array:
        """Returns x, of which every device of the tensor axis has a copy; backward, the all-reduce of its gradient."""
        return x if self.tensor == 1 else _copy_to_tensor(x)

    def all_reduce(self, x: Array) -> Array:
        """Returns the sum of x over the tensor axis; backward, the gradient as it is."""
        return x if self.tensor == 1 else _all_reduce(x)

    def embed(
        self, table: Float[Array, "vocab_shard embed_shard"], tokens: Int[Array, "rows time"], dtype: DTypeLike
    ) -> Float[Array, "rows time embed"]:
        """Returns the rows of the embedding at `tokens`."""
        if self.fsdp > 1:
            tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if self.tensor > 1:
            local = tokens - _first_row(self.tensor, table.shape[0])
            inside = (local >= 0) & (local < table.shape[0])
            found = jnp.where(inside[:, :, None], table[jnp.where(inside, local, 0)], 0.0)
            columns = _all_reduce(found.astype(dtype))
        else:
            columns = table[tokens].astype(dtype)
        if self.fsdp == 1:
            return columns
        return jax.lax.all_to_all(columns, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    def vocab_shards(self) -> VocabShards:
        """Returns how the output embedding lies over the devices."""

        def gather(shard: Array, dtype: DTypeLike) -> Array:
            shard = shard.astype(dtype)
            return shard if self.fsdp == 1 else jax.lax.all_gather(shard, "fsdp", axis=1, tiled=True)

        def scatter(grad: Array) -> Array:
            if self.fsdp == 1:
                return grad
            return jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=1, tiled=True)

        return VocabShards(
            gather=gather,
            scatter=scatter,
            first_row=partial(_first_row, self.tensor),
            all_max=lambda x: x if self.tensor == 1 else jax.lax.pmax(x, "tensor"),
            all_sum=lambda x: x if self.tensor == 1 else jax.lax.psum(x, "tensor"),
        )


ONE_DEVICE = Parallel(fsdp=1, tensor=1)
"""No collectives: for use outside of shard_map."""


def over_mesh(mesh: Mesh) -> Parallel:
    """Returns what a device of this mesh does."""
    return Parallel(fsdp=mesh.shape["fsdp"], tensor=mesh.shape["tensor"])


def sum_over_rows(tree: Any) -> Any:
    """Returns the sum of every leaf over all devices that see rows of their own."""
    return jax.lax.psum(tree, ("data", "fsdp"))


def max_over_rows(tree: Any) -> Any:
    """Returns the largest of every leaf over all devices that see rows of their own."""
    return jax.lax.pmax(tree, ("data", "fsdp"))


def first_row(micro_batch: Int[Array, ""], num_rows: int) -> Int[Array, ""]:
    """Returns which row of the whole batch this device's first one is, where it has `num_rows` of each micro-batch."""
    axes = ("data", "fsdp")
    return (micro_batch * jax.lax.axis_size(axes) + jax.lax.axis_index(axes)) * num_rows


def sum_gradients(grads: Any) -> Any:
    """Returns a model's gradients summed over the devices that still hold parts: data, and fsdp for whole vectors.

    Called once an update; only shards move between replicas.
    """

    def one(path: tuple[Any, ...], grad: Array) -> Array:
        return jax.lax.psum(grad, "data" if "fsdp" in rule(param_name(path)) else ("data", "fsdp"))

    return jax.tree.map_with_path(one, grads)


def _first_row(tensor: int, num_rows: int) -> Int[Array, ""]:
    return jnp.int32(0) if tensor == 1 else jax.lax.axis_index("tensor") * num_rows


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(shard: Array, dim: int, dtype: Any) -> Array:
    # Back to the type of the shard, so that the gradient may be float32; XLA drops the two casts where it is used.
    return jax.lax.all_gather(shard.astype(dtype), "fsdp", axis=dim, tiled=True).astype(shard.dtype)


def _gather_fwd(shard: Array, dim: int, dtype: Any) -> tuple[Array, None]:
    return _gather(shard, dim, dtype), None


def _gather_bwd(dim: int, dtype: Any, _: None, grad: Array) -> tuple[Array]:
    return (jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=dim, tiled=True),)


_gather.defvjp(_gather_fwd, _gather_bwd)


@jax.custom_vjp
def _copy_to_tensor(x: Array) -> Array:
    return x


_copy_to_tensor.defvjp(lambda x: (x, None), lambda _, grad: (jax.lax.psum(grad, "tensor"),))


@jax.custom_vjp
def _all_reduce(x: Array) -> Array:
    return jax.lax.psum(x, "tensor")


_all_reduce.defvjp(lambda x: (jax.lax.psum(x, "tensor"), None), lambda _, grad: (grad,))
