"""Two processes on this machine (jax.distributed, CPU collectives) train as one does.

Run as a script, this file is one of the processes: it updates the tiny config's policy a few times and prints metrics.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NUM_UPDATES = 3
NUM_ROWS, ROW_TOKENS, ROWS_PER_MICRO_BATCH = 16, 128, 8


def tiny_config(num_processes: int, port: int):
    """configs/tiny.py on 8 devices, with short rows."""
    from nouscoder_jax.cli import load_config_file

    config = load_config_file(ROOT / "configs" / "tiny.py")
    address = f"127.0.0.1:{port}"
    changes = {
        "mesh": {"data": 2, "fsdp": 4, "num_processes": num_processes, "coordinator_address": address},
        "data": {"max_prompt_tokens": 32},
        "rollout": {"max_completion_tokens": 64},
        "experience": {"row_tokens": ROW_TOKENS, "rows_per_micro_batch": ROWS_PER_MICRO_BATCH},
        "loss": {"old_logprobs": "recomputed", "max_drift_mean": 0.0, "max_drift": 100.0},
    }
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    )


def whole_batch(seed: int, vocab_size: int):
    """Two segments a row; the same in every process."""
    from nouscoder_jax.types import Batch

    rng = np.random.default_rng(seed)
    shape = (NUM_ROWS, ROW_TOKENS)
    tokens = rng.integers(0, vocab_size, shape).astype(np.int32)
    index = np.broadcast_to(np.arange(ROW_TOKENS), shape)
    first = rng.integers(30, 90, (NUM_ROWS, 1))
    segment_ids = np.where(index < first, 1, 2)
    return Batch(
        tokens=tokens,
        targets=np.roll(tokens, -1, axis=1),
        positions=np.where(segment_ids == 1, index, index - first).astype(np.int32),
        segment_ids=segment_ids.astype(np.int32),
        loss_mask=(index % first > 8) & (index < ROW_TOKENS - 1),
        same_weights=(segment_ids == 1) & (index > 8) & (index < first - 1),
        behavior_logprobs=rng.normal(-4.0, 0.3, shape).astype(np.float32),
        advantages=np.where(segment_ids == 1, *rng.normal(size=(2, NUM_ROWS, 1))).astype(np.float32),
    )


def own_rows(array: np.ndarray, process: int, num_processes: int) -> np.ndarray:
    """This process's share of every micro-batch."""
    parts = array.reshape(-1, num_processes, ROWS_PER_MICRO_BATCH // num_processes, ROW_TOKENS)
    return parts[:, process].reshape(-1, ROW_TOKENS)


def train(num_processes: int, port: int) -> list[dict[str, float]]:
    """Metrics of each update."""
    import jax
    from nouscoder_jax.loop.parts import start_processes

    from nouscoder_jax import sharding
    from nouscoder_jax.model.weights import load_model
    from nouscoder_jax.training.optimizer import make_optimizer
    from nouscoder_jax.training.state import from_model
    from nouscoder_jax.training.update import make_token_logprobs, make_update

    jax.config.update("jax_disable_most_optimizations", True)  # half the time to compile
    config = tiny_config(num_processes, port)
    start_processes(config)
    architecture, weights = load_model(ROOT / "configs" / config.model.path)
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    state = from_model(weights, architecture, make_optimizer(config.optimizer), mesh=mesh)
    update = make_update(config, architecture, mesh, loss_name=config.loss.name)
    token_logprobs = make_token_logprobs(config, mesh)
    batches = []
    for number in range(NUM_UPDATES):
        batch = whole_batch(number, architecture.vocab_size)
        batches.append(type(batch)(*(own_rows(array, jax.process_index(), num_processes) for array in batch)))
    old_logprobs = [token_logprobs(state.model, batch) for batch in batches]
    metrics = []
    for batch, old in zip(batches, old_logprobs, strict=True):
        state, one = update(state, batch, NUM_ROWS // ROWS_PER_MICRO_BATCH, old)
        metrics.append(one)
    return metrics


def run_processes(num_processes: int, folder: Path) -> list[list[dict[str, float]]]:
    """What each process printed; 8 devices in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // num_processes}",
        "PYTHONPATH": str(ROOT),
    }
    logs = [folder / f"{num_processes}-{process}.log" for process in range(num_processes)]
    processes = []
    for process, log in enumerate(logs):
        command = [sys.executable, __file__, str(num_processes), str(port)]
        own = environment | {"NOUSCODER_PROCESS_ID": str(process)}
        with log.open("w") as errors:
            processes.append(subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=errors, text=True))
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, log.read_text()[-3000:]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_give_the_losses_of_one(tmp_path: Path):
    (alone,) = run_processes(1, tmp_path)
    first, second = run_processes(2, tmp_path)
    assert first == second  # every process is told the same metrics
    assert alone[0]["loss"] != alone[1]["loss"]
    for one, two in zip(alone, first, strict=True):
        assert two.keys() == one.keys()
        assert two["num_tokens"] == one["num_tokens"] > 0
        for name in ("loss", "grad_norm", "entropy", "drift_mean", "approx_kl", "same_weights_drift_max"):
            assert two[name] == pytest.approx(one[name], abs=1e-5), name


if __name__ == "__main__":
    print(json.dumps(train(*(int(argument) for argument in sys.argv[1:]))))
