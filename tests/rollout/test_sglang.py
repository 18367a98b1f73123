"""The SGLang engine against a real server on the CPU; only what needs no server is tested without one.

NOUSCODER_SGLANG_PYTHON names the Python of an environment with SGLang 0.5.23 (it wants versions of its own).
"""

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.sglang import SGLangEngine, weight_layout
from nouscoder_jax.types import EngineError, Prompt, Sampling

STUBS = Path(__file__).parents[1] / "sglang_stubs"
PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
needs_server = pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
PROMPT = Prompt(problem_id="p", token_ids=(5, 9, 200, 31, 77))
EOS = 3


def sampling(**changes):
    values = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_tokens": 12, "seed": 1}
    return Sampling(**(values | changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(url, *, timeout_s=60.0):
    return SGLangEngine([url], num_slots=8, request_timeout_s=timeout_s, eos_token_ids=(EOS,))


def with_engine(url, action):
    """What `await action(engine)` returns."""

    async def main():
        engine = connect(url)
        try:
            return await action(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


# ---- without a server


def test_an_address_where_nothing_answers_is_one_line_with_the_fix():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as error:
        connect(url)
    assert f"no SGLang server answers at {url}" in str(error.value) and "\n" not in str(error.value)
    assert "--rollout.urls" in str(error.value)


def write_weights(folder: Path) -> Path:
    folder.mkdir()
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, folder / "model.safetensors")
    return folder


def test_the_layout_of_a_folder_is_names_and_shapes(tmp_path):
    assert weight_layout(write_weights(tmp_path / "w")) == {"a": (2, 3), "b": (4,)}


def test_a_torn_file_is_refused_by_name(tmp_path):
    file = write_weights(tmp_path / "w") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EngineError, match="model.safetensors has .* bytes; its header promises"):
        weight_layout(file.parent)


def test_a_shard_that_is_missing_is_refused_by_name(tmp_path):
    folder = write_weights(tmp_path / "w")
    index = {"weight_map": {"a": "model.safetensors", "c": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EngineError, match="other.safetensors is named by the index"):
        weight_layout(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(EngineError, match="holds no safetensors"):
        weight_layout(tmp_path)


# ---- with a real server


def make_checkpoint(folder: Path, *, seed: int):
    """A random Qwen3 small enough for a second, and the same model in transformers."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=EOS,
        bos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config).eval().float()
    model.save_pretrained(folder)
    # transformers 5 writes rope_parameters only; older readers want the keys of version 4 as well.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 10000.0}))
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: (root / name, make_checkpoint(root / name, seed=seed)) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """Address of a server of checkpoint a, and its process."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [PYTHON, "-m", "sglang.launch_server", "--model-path", str(models["a"][0]), "--device", "cpu"]
    command += ["--dtype", "float32", "--attention-backend", "torch_native", "--grammar-backend", "none"]
    command += ["--max-total-tokens", "4096", "--skip-server-warmup", "--skip-tokenizer-init"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(STUBS), "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/model_info", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-3000:]}")
        yield url, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def reference_logprobs(model, completion, *, temperature=1.0, top_p=1.0, top_k=0):
    """log p of the sampled tokens by transformers, after temperature, top-k and top-p."""
    import torch

    ids = list(PROMPT.token_ids + completion.token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(PROMPT.token_ids) - 1 : -1].double().numpy()
    probs = np.exp(logits / temperature - np.max(logits / temperature, axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    logprobs = []
    for row, token in zip(probs, completion.token_ids, strict=True):
        order = np.argsort(-row)
        kept = np.ones(len(row), bool)
        if top_k:
            kept[top_k:] = False
        before = np.cumsum(row[order]) - row[order]
        kept &= before <= top_p
        allowed = set(order[kept].tolist())
        assert token in allowed
        logprobs.append(math.log(row[token] / row[list(allowed)].sum()))
    return logprobs


@needs_server
def test_logprobs_are_those_of_the_model(server, models):
    completion = with_engine(server[0], lambda engine: engine.generate(PROMPT, sampling()))
    assert completion.behavior_logprobs == completion.logprobs
    np.testing.assert_allclose(completion.logprobs, reference_logprobs(models["a"][1], completion), atol=1e-4)
    assert (completion.policy_version, len(completion.token_ids)) == (0, 12) or completion.finish_reason == "stop"


@needs_server
def test_behavior_logprobs_are_those_after_temperature_and_truncation(server, models):
    cut = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    completion = with_engine(server[0], lambda engine: engine.generate(PROMPT, sampling(**cut)))
    expected = reference_logprobs(models["a"][1], completion, **cut)
    np.testing.assert_allclose(completion.behavior_logprobs, expected, atol=1e-4)
    assert all(map(math.isnan, completion.logprobs))


@needs_server
def test_a_completion_ends_at_an_end_token_or_is_cut(server):
    async def many(engine):
        requests = (engine.generate(PROMPT, sampling(max_completion_tokens=64, seed=seed)) for seed in range(16))
        return await asyncio.gather(*requests), engine.tokens_generated

    completions, tokens_generated = with_engine(server[0], many)
    assert tokens_generated == sum(len(completion.token_ids) for completion in completions)
    for completion in completions:
        stopped = completion.finish_reason == "stop"
        assert (completion.token_ids[-1] == EOS) == stopped
        assert stopped or len(completion.token_ids) == 64
        assert EOS not in completion.token_ids[:-1]


@needs_server
def test_a_cancelled_request_stops_on_the_server(server):
    def running():
        loads = httpx.get(f"{server[0]}/v1/loads", timeout=5).json()["loads"]
        return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)

    async def cancel(engine):
        task = asyncio.create_task(
            engine.generate(Prompt(problem_id="p", token_ids=(7,)), sampling(max_completion_tokens=500))
        )
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert with_engine(server[0], cancel)
    deadline = time.monotonic() + 10
    while running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running() == 0


@needs_server
def test_a_prompt_longer_than_the_context_is_an_engine_error(server):
    long = Prompt(problem_id="p", token_ids=(7,) * 600)
    with pytest.raises(EngineError, match="answered 400"):
        with_engine(server[0], lambda engine: engine.generate(long, sampling()))


@needs_server
def test_new_weights_are_served_under_their_version(server, models):
    async def reload(engine):
        await engine.reload(models["b"][0], policy_version=7)
        return await engine.generate(PROMPT, sampling()), engine.policy_version

    completion, version = with_engine(server[0], reload)
    assert completion.policy_version == version == 7
    np.testing.assert_allclose(completion.logprobs, reference_logprobs(models["b"][1], completion), atol=1e-4)


@needs_server
def test_weights_without_a_tensor_are_refused_and_the_old_ones_served(server, models, tmp_path):
    weights = load_file(models["b"][0] / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors")

    async def reload(engine):
        await engine.reload(models["a"][0], policy_version=8)
        with pytest.raises(EngineError, match="lacks 1 tensors, the first is model.norm.weight"):
            await engine.reload(tmp_path, policy_version=9)
        return await engine.generate(PROMPT, sampling())

    completion = with_engine(server[0], reload)
    assert completion.policy_version == 8
    np.testing.assert_allclose(completion.logprobs, reference_logprobs(models["a"][1], completion), atol=1e-4)


@needs_server
def test_weights_of_another_shape_are_refused_before_the_server_sees_them(server, models, tmp_path):
    weights = load_file(models["a"][0] / "model.safetensors")
    weights["model.norm.weight"] = np.zeros(65, np.float32)
    save_file(weights, tmp_path / "model.safetensors")

    async def reload(engine):
        with pytest.raises(EngineError, match=r"model.norm.weight of shape \(65,\); the served model has \(64,\)"):
            await engine.reload(tmp_path, policy_version=9)
        return await engine.generate(PROMPT, sampling())

    assert len(with_engine(server[0], reload).token_ids) > 0


@needs_server
def test_tokens_of_weights_that_this_run_did_not_load_are_refused(server, models):
    async def behind_its_back(engine):
        request = {"model_path": str(models["b"][0]), "weight_version": "stranger"}
        httpx.post(f"{server[0]}/update_weights_from_disk", json=request, timeout=60).raise_for_status()
        with pytest.raises(EngineError, match="weight version 'stranger', which this run did not load"):
            await engine.generate(PROMPT, sampling())

    with_engine(server[0], behind_its_back)


@needs_server
def test_a_server_that_hangs_is_an_engine_error_after_the_timeout(server):
    async def hang():
        engine = connect(server[0], timeout_s=1.0)
        os.killpg(server[1].pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineError, match="gave no answer within 1.0 s"):
                await engine.generate(PROMPT, sampling())
        finally:
            os.killpg(server[1].pid, signal.SIGCONT)
            await engine.close()

    asyncio.run(hang())


@needs_server
def test_a_server_that_dies_is_an_engine_error(server):
    async def die(engine):
        requests = [asyncio.create_task(engine.generate(PROMPT, sampling(max_completion_tokens=400))) for _ in range(4)]
        await asyncio.sleep(0.2)
        os.killpg(server[1].pid, signal.SIGKILL)
        return await asyncio.gather(*requests, return_exceptions=True)

    outcomes = with_engine(server[0], die)
    assert all(isinstance(outcome, EngineError) for outcome in outcomes if not hasattr(outcome, "token_ids"))
    with pytest.raises(UserError, match="no SGLang server answers"):
        connect(server[0])
