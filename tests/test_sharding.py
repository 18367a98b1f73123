"""The rule table: complete, strict, and right for the full-size model."""

import jax
import pytest
from jax.sharding import PartitionSpec
from small import make_mesh_config, qwen3_14b

from nouscoder_jax import sharding
from nouscoder_jax.config import UserError
from nouscoder_jax.model.qwen3 import init, param_name


def make_mesh(data, fsdp, tensor):
    return sharding.make_mesh(make_mesh_config(data, fsdp, tensor), devices=jax.devices())


def named_shapes(architecture):
    model = jax.eval_shape(lambda: init(architecture, jax.random.key(0)))
    return {param_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(model)}


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 8, 1), (2, 4, 1), (1, 2, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_every_parameter_of_the_14b_model_has_a_rule_that_divides(axes, bias):
    mesh = make_mesh(*axes)
    for name, shape in named_shapes(qwen3_14b(attention_bias=bias)).items():
        assert isinstance(sharding.partition_spec(name, shape, mesh=mesh), PartitionSpec)


def test_every_matrix_of_the_14b_model_is_split_over_fsdp():
    mesh = make_mesh(1, 8, 1)
    whole = [
        name
        for name, shape in named_shapes(qwen3_14b()).items()
        if "fsdp" not in sharding.partition_spec(name, shape, mesh=mesh)
    ]
    assert all("norm" in name for name in whole)


def test_a_parameter_without_a_rule_is_an_error_that_names_it():
    with pytest.raises(UserError, match="layers/mlp/router has no rule"):
        sharding.partition_spec("layers/mlp/router", (2, 4), mesh=make_mesh(1, 1, 1))


def test_an_axis_that_does_not_divide_is_an_error_that_names_parameter_dimension_and_axis():
    with pytest.raises(UserError, match=r"layers/mlp/up_proj: dimension 2 is 17409, which mesh axis tensor = 2"):
        sharding.partition_spec("layers/mlp/up_proj", (40, 5120, 17409), mesh=make_mesh(1, 1, 2))


def test_moments_lie_as_their_parameters_do():
    mesh = make_mesh(2, 2, 2)
    shape = (4, 128, 256)
    specs = {
        sharding.state_sharding(prefix + "layers/mlp/up_proj", shape, mesh=mesh).spec
        for prefix in ("model/", "opt_state/1/mu/", "opt_state/1/nu/")
    }
    assert specs == {PartitionSpec(None, "fsdp", "tensor")}
    assert sharding.state_sharding("opt_state/1/count", (), mesh=mesh).spec == PartitionSpec()


def test_too_few_devices_is_an_error_with_both_numbers():
    with pytest.raises(UserError, match="needs 48 devices, found 8"):
        make_mesh(3, 16, 1)
