"""Interpreted kernels compiled fast on the CPU, and compiled for GPUs that are not here."""

import importlib.util
import os

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # before jax looks for its plugins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# An interpreted kernel is many small loops: compiling them well takes ten times longer than running them badly.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@pytest.fixture(scope="session")
def run():
    """Calls a function jitted with little optimisation."""
    return lambda function, *arguments: jax.jit(function, compiler_options=FAST)(*arguments)


@pytest.fixture(scope="session")
def difference():
    """The largest difference of two trees, as a share of the largest number of each array."""

    def compare(got, expected):
        def one(got, expected):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
            return np.max(np.abs(got - expected)) / max(1.0, np.max(np.abs(expected)))

        return max(jax.tree.leaves(jax.tree.map(one, got, expected)))

    return compare


@pytest.fixture(scope="session")
def shapes_of():
    """All array shapes that a function's jaxpr names, those inside kernels and loops included."""

    def walk(jaxpr, found):
        for equation in jaxpr.eqns:
            found.update(tuple(getattr(var.aval, "shape", ())) for var in (*equation.invars, *equation.outvars))
            for value in jax.tree.leaves(dict(equation.params), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner, found)
        return found

    return lambda function, *arguments: walk(jax.make_jaxpr(function)(*arguments).jaxpr, set())


@pytest.fixture(scope="session")
def gpu_compile(root):
    """Compiles a function for one GPU of a kind ("h100", "b200") with the real compiler; skips where it is absent."""
    if not any(importlib.util.find_spec("jax_plugins") and importlib.util.find_spec(f"jax_plugins.xla_cuda{n}")
               for n in (12, 13)):  # fmt: skip
        pytest.skip("no CUDA plugin of jax is installed (extra: plan)")

    def compile_for(gpu, function, *shapes):
        target = root / f"nouscoder_jax/planning/targets/{gpu}.txtpb"
        topology = topologies.get_topology_desc(
            topology_name=gpu, platform="cuda", target_config=target.read_text(), topology="1x1x1"
        )
        mesh = Mesh(np.array(topology.devices[:1]), ("x",), axis_types=(AxisType.Auto,))
        whole = NamedSharding(mesh, PartitionSpec())
        shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=whole) for one in shapes]
        with jax.set_mesh(mesh):
            return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()

    return compile_for


@pytest.fixture(scope="session")
def packed():
    """Segment ids of rows, from the lengths of their segments; what is left is padding."""

    def make(time, *rows):
        ids = np.zeros((len(rows), time), np.int32)
        for row, lengths in enumerate(rows):
            filled = np.repeat(np.arange(1, len(lengths) + 1), lengths)
            ids[row, : len(filled)] = filled
        return jnp.asarray(ids)

    return make
