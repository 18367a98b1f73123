"""Two real SGLang servers and a router, started when a test first asks for them and stopped when the folder's last test
is over. What tests import is in real_servers.py: `conftest` is whichever file of that name was read last.
"""

import shutil
from pathlib import Path

import pytest
from real_servers import PYTHON, RUNNING, Checkpoint, Process, free_port, make_checkpoint

from nouscoder_jax.training import convert


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What asks for a real server is of the second tier, where it is installed."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "processes" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Stops all servers after the last test of this folder; tests elsewhere count the children of this process."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        for process in list(RUNNING):
            process.kill()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make_checkpoint(root / name, seed=seed) for seed, name in enumerate("ab")}


@pytest.fixture(scope="session")
def converted(checkpoints, tmp_path_factory):
    """Checkpoint a in bfloat16, in several files, after conversion to our format and back."""
    if not PYTHON:
        pytest.skip("NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
    import torch
    import transformers

    root = tmp_path_factory.mktemp("converted")
    model = transformers.Qwen3ForCausalLM.from_pretrained(checkpoints["a"].folder, dtype=torch.bfloat16)
    model.save_pretrained(root / "hf", max_shard_size="100KB")
    shutil.copyfile(checkpoints["a"].folder / "config.json", root / "hf/config.json")  # with the keys of version 4
    convert.from_hf(root / "hf", root / "ours", say=lambda line: None)
    convert.to_hf(root / "ours", root / "back", dtype="keep", step="latest", max_shard_gb=None, say=lambda line: None)
    return Checkpoint(root / "back", transformers.Qwen3ForCausalLM.from_pretrained(root / "hf", dtype=torch.float32))


@pytest.fixture(scope="session")
def processes(converted, tmp_path_factory):
    """Two servers of a converted checkpoint, and a router in front of both; none is started yet."""
    logs = tmp_path_factory.mktemp("servers")
    arguments = ["-m", "sglang.launch_server", "--model-path", str(converted.folder), "--device", "cpu"]
    arguments += ["--dtype", "float32", "--attention-backend", "torch_native", "--grammar-backend", "none"]
    arguments += ["--max-total-tokens", "16384", "--skip-server-warmup", "--skip-tokenizer-init", "--sleep-on-idle"]
    servers = [Process(arguments, logs / f"server{i}", ready=lambda answer: answer.status_code == 200) for i in (0, 1)]
    arguments = ["-m", "sglang_router.launch_router", "--worker-urls", *(server.url for server in servers)]
    arguments += ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "warn"]
    router = Process(arguments, logs / "router", ready=lambda answer: len(answer.json()["workers"]) == len(servers))
    return {"first": servers[0], "second": servers[1], "router": router}


@pytest.fixture
def server(processes):
    """A server; whatever the test before did to it, it answers."""
    return _started(processes, "first")


@pytest.fixture
def two_servers(processes):
    """Two servers that answer."""
    return _started(processes, "first", "second")


@pytest.fixture
def router(processes):
    """A router in front of two servers that answer."""
    _started(processes, "first", "second")
    return _started(processes, "router")


def _started(processes, *names):
    chosen = [processes[name] for name in names]
    for process in chosen:
        process.start()
    for process in chosen:
        process.wait()
    return chosen if len(chosen) > 1 else chosen[0]
