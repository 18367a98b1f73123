"""Sandboxes for tests: every test that takes `bench` runs on each backend that works here."""

import pytest
from judge_bench import Bench

from nouscoder_jax.config import UserError


@pytest.fixture(scope="session", params=["local", "docker"])
def bench(request):
    try:
        made = Bench(request.param)
    except UserError as error:
        pytest.skip(f"{request.param}: {error}")
    yield made
    made.close()


@pytest.fixture(scope="session")
def local_bench():
    made = Bench("local")
    yield made
    made.close()
