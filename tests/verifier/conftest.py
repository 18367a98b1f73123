"""Sandboxes for tests: every test that takes `rig` runs on each backend that works here."""

import pytest
from judge_rig import Rig

from nouscoder_jax.config import UserError


@pytest.fixture(scope="session", params=["local", "docker"])
def rig(request):
    try:
        made = Rig(request.param)
    except UserError as error:
        pytest.skip(f"{request.param}: {error}")
    yield made
    made.close()


@pytest.fixture(scope="session")
def local_rig():
    made = Rig("local")
    yield made
    made.close()
