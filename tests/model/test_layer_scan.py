"""The explicit backward pass through stacked layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from nouscoder_jax.model.layer_scan import add_to_gradient, scan_layers


def layer(x, weights, context):
    return x + jnp.tanh(x @ weights["matrix"]) * context[0] + weights["bias"][None, None]


def inputs():
    rng = np.random.default_rng(0)
    layers = {"matrix": rng.normal(size=(5, 4, 4)), "bias": rng.normal(size=(5, 4))}
    layers = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), layers)
    return jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32), layers, (jnp.float32(0.5), jnp.arange(3))


def plain(x, layers, context):
    return jax.lax.scan(lambda x, weights: (layer(x, weights, context), None), x, layers)[0]


def test_value_and_gradients_are_those_of_a_scan():
    x, layers, context = inputs()
    zeros = jax.tree.map(jnp.zeros_like, layers)
    ours = jax.vjp(lambda x, layers: scan_layers(layer, x, layers, zeros, context), x, layers)
    theirs = jax.vjp(lambda x, layers: plain(x, layers, context), x, layers)
    pairs = (ours[0], ours[1](jnp.ones_like(x))), (theirs[0], theirs[1](jnp.ones_like(x)))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), *pairs)


def test_the_gradient_is_added_to_the_sums():
    x, layers, context = inputs()
    sums = jax.tree.map(lambda leaf: jnp.full_like(leaf, 7), layers)

    def gradient(function):
        return jax.grad(lambda layers: function(layers).sum())(layers)

    own = gradient(lambda layers: plain(x, layers, context))
    expected = jax.tree.map(lambda leaf: leaf + 7, own)
    close = partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(close, gradient(lambda layers: scan_layers(layer, x, layers, sums, context)), expected)
    jax.tree.map(close, gradient(lambda layers: plain(x, add_to_gradient(layers, sums), context)), expected)


def test_no_second_stack_of_gradients_is_made():
    """The backward loop only carries; what autodiff of a scan would stack comes out of it beside the carry."""
    x, layers, context = inputs()

    def loss(layers, sums):
        return scan_layers(layer, x, layers, sums, context).sum()

    loops = [eqn for eqn in jax.make_jaxpr(jax.grad(loss))(layers, layers).eqns if eqn.primitive.name == "scan"]
    forward, backward = loops
    assert len(forward.outvars) > forward.params["num_carry"]  # the layers' inputs are stacked,
    assert len(backward.outvars) == backward.params["num_carry"]  # gradients are not
