"""Small and full-sized architectures, and the GPU compiler where it is installed."""

import os

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # before jax looks for its plugins

import pytest


@pytest.fixture(scope="session")
def gpu_compiler():
    """Skips where the CUDA plugin is not installed."""
    from nouscoder_jax.planning.compile import gpu_compiler_missing

    if reason := gpu_compiler_missing():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def qwen3_14b():
    from nouscoder_jax.planning.sizes import find_architecture

    return find_architecture("Qwen/Qwen3-14B")


@pytest.fixture(scope="session")
def b200_fleet():
    from nouscoder_jax.planning.fleet import Fleet, find_gpu

    return Fleet(gpu=find_gpu("b200"), num_gpus=48)


@pytest.fixture(scope="session")
def dapo(root):
    from nouscoder_jax.cli import load_config_file

    return load_config_file(root / "configs" / "dapo.py")
