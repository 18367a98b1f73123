"""Real SGLang servers on the CPU, the engine in front of them, and what transformers says of the same model.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nouscoder_jax.rollout.sglang import SGLangEngine
from nouscoder_jax.types import Prompt, Sampling

TESTS = Path(__file__).parents[1]
PYTHONPATH = os.pathsep.join((str(TESTS / "quick_start"), str(TESTS / "sglang_stubs")))
"""Of a server: it starts quickly, and finds stand-ins for what has no CPU wheel."""
PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
START_S = 400
EOS = 3
VOCABULARY = 250
"""No multiple of 64, so that servers pad it."""
PROMPT = Prompt(problem_id="p", token_ids=(5, 9, 200, 31, 77))

RUNNING: list["Process"] = []
"""Those that are up."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A process group with a log, started again on the same port after it was killed."""

    def __init__(self, arguments, log: Path, *, ready):
        self.port, self.log, self._ready = free_port(), log, ready
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self._process: subprocess.Popen | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, without waiting, unless it runs."""
        if self.alive:
            return
        environment = os.environ | {"PYTHONPATH": PYTHONPATH, "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        command = [PYTHON, *self._arguments, "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        RUNNING.append(self)

    def wait(self) -> None:
        """Returns once it answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.alive:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if self._ready(httpx.get(f"{self.url}/{'workers' if self._is_router else 'model_info'}", timeout=5)):
                    return
            time.sleep(0.2)
        pytest.fail(f"{self.url} did not start: {self.log.read_text(errors='replace')[-3000:]}")

    @property
    def _is_router(self) -> bool:
        return "sglang_router.launch_router" in self._arguments

    def signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        if self in RUNNING:
            RUNNING.remove(self)

    def scheduler(self) -> int:
        """The process that computes."""
        assert self._process is not None
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    group = (folder / "stat").read_text().rpartition(")")[2].split()[2]
                    if group == str(self._process.pid) and "scheduler" in (folder / "cmdline").read_text():
                        return int(folder.name)
        raise LookupError(f"{self.url} has no scheduler")


@dataclass
class Checkpoint:
    """A random Qwen3 small enough for a second: its folder, and the same model in transformers."""

    folder: Path
    model: Any


def make_checkpoint(folder: Path, *, seed: int) -> Checkpoint:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        eos_token_id=None,  # the engine names the end tokens, so that a test can do without
        bos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config).eval().float()
    model.save_pretrained(folder)
    # transformers 5 writes rope_parameters only; older readers want the keys of version 4 as well.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 10000.0}))
    return Checkpoint(folder, model)


def sampling(**changes) -> Sampling:
    values = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_tokens": 12, "seed": 1}
    return Sampling(**(values | changes))


def connect(*urls, **changes) -> SGLangEngine:
    values: dict[str, Any] = {
        "num_slots": 8,
        "request_timeout_s": 120.0,
        "server_timeout_s": 20.0,
        "outage_limit_s": 120.0,
        "on_new_weights": "abort",
        "eos_token_ids": (EOS,),
        "context_tokens": 2048,
        "say": lambda line: None,
    }
    return SGLangEngine(urls, **(values | changes))


def with_engine(urls, action, *, weights: Path | None = None, **changes):
    """What `await action(engine)` returns, once the engine has loaded `weights` as version 0."""

    async def main():
        engine = connect(*([urls] if isinstance(urls, str) else urls), **changes)
        try:
            if weights is not None:
                await engine.reload(weights, policy_version=0)
            return await action(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


def reference_logprobs(model, token_ids, *, prompt=PROMPT, temperature=1.0, top_p=1.0, top_k=0):
    """log p of the sampled tokens by transformers, after temperature, top-k and top-p."""
    import torch

    ids = [*prompt.token_ids, *token_ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(prompt.token_ids) - 1 : -1].double().numpy()
    probs = np.exp(logits / temperature - np.max(logits / temperature, axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    logprobs = []
    for row, token in zip(probs, token_ids, strict=True):
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


def running(url) -> int:
    """Requests that a server works on or holds."""
    loads = httpx.get(f"{url}/v1/loads", timeout=10).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


def tokens_held(url) -> int:
    """Tokens of the requests that a server works on, prompts included."""
    return sum(load["num_used_tokens"] for load in httpx.get(f"{url}/v1/loads", timeout=10).json()["loads"])


async def until(condition, *, within_s=120.0):
    """Returns once `condition()` is true; it is asked in a thread."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(answered, condition):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def answered(condition) -> bool:
    """Whether `condition()` is true, and its server answered in time."""
    with contextlib.suppress(httpx.TransportError):
        return condition()
    return False


async def under_way(start, condition, *, tries=20):
    """The tasks of `start()`, none done, while `condition()` is true. Where they are done before that was seen, on
    a machine that is quick or busy, they are started once more."""
    for _ in range(tries):
        tasks = start()
        while not any(task.done() for task in tasks):
            if await asyncio.to_thread(answered, condition):
                return tasks
            await asyncio.sleep(0.02)
        await asyncio.gather(*tasks)
    raise AssertionError(f"{tries} times it did not happen before the first was done")
