"""A scan over all layers and back, one layer's memory at a time.

In: a layer as a function, its input, the stacked weights of all layers, running sums of gradients. Out: the last
layer's output; backward, the sums with this pass's gradients added in place. Between the two only each layer's input
is kept. Plain autodiff of a scan would stack all new gradients beside the sums: 7 GB more a GPU for 14B over 8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Layer = Callable[[Array, Any, Any], Array]
"""layer(x, weights of one layer, context) -> x"""


def scan_layers(layer: Layer, x: Float[Array, "rows time embed"], layers: Any, sums: Any, context: Any) -> Array:
    """Returns x after all layers, whose weights are stacked in `layers` along dimension 0.

    The gradient that arrives at `layers` is `sums`, a tree like `layers`, plus that of this call. `context` is what
    every layer sees; like `sums` it gets no gradient. Backward, each layer is computed again from its input.
    """
    return _scan_layers(layer, x, layers, sums, context)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_layers(layer: Layer, x: Array, layers: Any, sums: Any, context: Any) -> Array:
    return jax.lax.scan(lambda x, weights: (layer(x, weights, context), None), x, layers)[0]


def _forward(layer: Layer, x: Array, layers: Any, sums: Any, context: Any) -> tuple[Array, Any]:
    last, inputs = jax.lax.scan(lambda x, weights: (layer(x, weights, context), x), x, layers)
    return last, (inputs, layers, sums, context)


def _backward(layer: Layer, residuals: Any, grad: Array) -> tuple[Array, Any, None, None]:
    inputs, layers, sums, context = residuals
    num_layers = inputs.shape[0]

    def one(step: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        grad, sums = carry
        index = num_layers - 1 - step
        x, weights = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), (inputs, layers)
        )
        _, pull = jax.vjp(lambda x, weights: layer(x, weights, context), x, weights)
        grad, new = pull(grad)

        def add(total: Array, part: Array) -> Array:
            part = part + jax.lax.dynamic_index_in_dim(total, index, keepdims=False)
            return jax.lax.dynamic_update_index_in_dim(total, part, index, 0)

        return grad, jax.tree.map(add, sums, new)

    grad, sums = jax.lax.fori_loop(0, num_layers, one, (grad, sums))
    return grad, sums, None, None


_scan_layers.defvjp(_forward, _backward)


def add_to_gradient(tree: Any, sums: Any) -> Any:
    """Returns `tree`; the gradient that arrives at it is `sums` plus what comes back. `sums` gets none."""
    return _add_to_gradient(tree, sums)


@jax.custom_vjp
def _add_to_gradient(tree: Any, sums: Any) -> Any:
    return tree


_add_to_gradient.defvjp(lambda tree, sums: (tree, sums), lambda sums, grad: (jax.tree.map(jnp.add, sums, grad), None))
