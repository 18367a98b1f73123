"""The Atropos server of a session's tests, started when a test first asks for it; empty in each test."""

from collections.abc import Iterator

import pytest
from atropos_server import AtroposProcess

from nouscoder_jax.loop import environment, pulled
from nouscoder_jax.rollout import atropos


@pytest.fixture(scope="session")
def running() -> Iterator[AtroposProcess]:
    pytest.importorskip("atroposlib.api.server", reason="atroposlib is not installed (make .venv/.test does it)")
    server = AtroposProcess()
    yield server
    server.kill()


@pytest.fixture
def server(running: AtroposProcess, monkeypatch: pytest.MonkeyPatch) -> AtroposProcess:
    """As if just started; asked for batches more often than a run does."""
    monkeypatch.setattr(pulled, "POLL_S", 0.03)
    monkeypatch.setattr(atropos, "RETRY_S", 0.05)
    monkeypatch.setattr(environment, "RETRY_S", 0.05)
    if running.is_running:
        if running.get("/info")["batch_size"] >= 0:
            running.get("/reset_data")
    else:
        running.start()
    return running
