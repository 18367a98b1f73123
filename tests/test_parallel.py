"""Collectives of the forward and backward pass: what they compute and in which dtype they move it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from nouscoder_jax import parallel, sharding
from nouscoder_jax.parallel import ONE_DEVICE, over_mesh

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (fake) devices")


def make_mesh(data, fsdp, tensor):
    names = ("data", "fsdp", "tensor")
    return jax.make_mesh((data, fsdp, tensor), names, axis_types=(AxisType.Auto,) * 3)


def on_mesh(function, mesh, in_specs, out_specs):
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


@pytest.mark.parametrize("axes", [(1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_the_embedding_and_its_gradient_are_those_of_a_look_up(axes):
    mesh = make_mesh(*axes)
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, 32, (8, 5)))
    weights = jnp.asarray(rng.normal(size=(8, 5, 16)), jnp.float32)
    spec, rows = sharding.rule("embed_tokens"), P(("data", "fsdp"))

    def gradient(table, tokens, weights):
        grad = jax.grad(lambda t: (over_mesh(mesh).embed(t, tokens, "float32") * weights).sum())(table)
        return jax.lax.psum(grad, "data")

    got = on_mesh(lambda t, i: over_mesh(mesh).embed(t, i, "float32"), mesh, (spec, rows), rows)(table, tokens)
    np.testing.assert_array_equal(got, table[tokens])
    grad = on_mesh(gradient, mesh, (spec, rows, rows), spec)(table, tokens, weights)
    np.testing.assert_allclose(grad, jnp.zeros_like(table).at[tokens].add(weights), atol=1e-5)


def test_weights_travel_in_bfloat16_and_gradients_are_summed_in_float32():
    """bfloat16 has 8 bits: it keeps neither the weight's 2^-12 nor the gradient's 2^-9."""
    mesh = make_mesh(1, 8, 1)
    layer = {"mlp": {"up_proj": jnp.full((8, 4), 1 + 2.0**-12)}}
    spec = {"mlp": {"up_proj": P("fsdp", None)}}

    def body(layer):
        whole, pull = jax.vjp(lambda layer: over_mesh(mesh).all_gather(layer, "bfloat16"), layer)
        (grad,) = pull(jax.tree.map(lambda leaf: jnp.full_like(leaf, 1 + 2.0**-9), whole))
        return whole, grad

    whole, grad = on_mesh(body, mesh, (spec,), (P(), spec))(layer)
    assert whole["mlp"]["up_proj"].shape == (8, 4) and float(whole["mlp"]["up_proj"][0, 0]) == 1.0  # rounded on the way
    np.testing.assert_array_equal(grad["mlp"]["up_proj"], np.full((8, 4), 8 + 2.0**-6, np.float32))
    jaxpr = str(
        jax.make_jaxpr(jax.shard_map(body, mesh=mesh, in_specs=(spec,), out_specs=(P(), spec), check_vma=False))(layer)
    )
    assert ":bf16[8,4] = all_gather" in jaxpr and ":f32[1,4] = reduce_scatter" in jaxpr


def test_a_block_split_over_tensor_gives_value_and_gradients_of_the_whole_block():
    mesh = make_mesh(1, 1, 8)
    rng = np.random.default_rng(0)
    x, up, down = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4), (4, 16), (16, 4)))

    def block(parallel, x, up, down):
        return (x + parallel.all_reduce(jnp.tanh(parallel.copy_to_tensor(x) @ up) @ down)) ** 2

    def body(x, up, down):
        return jax.grad(lambda *inputs: block(over_mesh(mesh), *inputs).sum(), argnums=(0, 1, 2))(x, up, down)

    specs = (P(), P(None, "tensor"), P("tensor"))
    grads = on_mesh(body, mesh, specs, specs)(x, up, down)
    expected = jax.grad(lambda *inputs: block(ONE_DEVICE, *inputs).sum(), argnums=(0, 1, 2))(x, up, down)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, expected)


def test_one_device_talks_to_nobody():
    x, table = jnp.ones((2, 3)), jnp.arange(8.0).reshape(4, 2)
    assert (
        ONE_DEVICE.copy_to_tensor(x) is x
        and ONE_DEVICE.all_reduce(x) is x
        and ONE_DEVICE.all_gather({"a": x}, "bfloat16")["a"] is x
    )
    jaxpr = str(jax.make_jaxpr(lambda t: ONE_DEVICE.embed(t, jnp.zeros((1, 2), int), "float32"))(table))
    assert not any(word in jaxpr for word in ("all_gather", "psum", "all_to_all"))


def test_gradients_of_vectors_meet_over_all_rows_and_of_matrices_over_data_only():
    mesh = make_mesh(2, 4, 1)
    grads = {"norm": jnp.ones(4), "layers": {"mlp": {"up_proj": jnp.ones((1, 4, 4))}}}
    specs = {"norm": P(), "layers": {"mlp": {"up_proj": sharding.rule("layers/mlp/up_proj")}}}
    summed = on_mesh(parallel.sum_gradients, mesh, (specs,), specs)(grads)
    assert float(summed["norm"][0]) == 8 and float(summed["layers"]["mlp"]["up_proj"][0, 0, 0]) == 2
