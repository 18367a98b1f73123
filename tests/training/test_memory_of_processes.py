"""What two processes hold of a model that both train: their share and little more, whatever they do with it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest
from small import make_architecture

from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import abstract_model, save_model

SCRIPT = Path(__file__).with_name("memory_process.py")
NUM_LAYERS = int(os.environ.get("NOUSCODER_MEMORY_LAYERS", "3"))
"""Of 36. On a CPU the devices' memory is the machine's: 3 layers want 20 GB."""
STAGES = ("load", "export", "checkpoint", "restore", "done")
GB = 1e9
BYTES_PER_PARAM = 12  # weights and two moments, float32


def qwen3_4b(num_layers: int) -> Architecture:
    """https://huggingface.co/Qwen/Qwen3-4B/blob/main/config.json, but for the number of layers."""
    return make_architecture(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_layers=num_layers, num_heads=32,
        num_kv_heads=8, head_dim=128, max_position_embeddings=40960,
    )  # fmt: skip


def write_random(architecture: Architecture, folder: Path) -> int:
    """A folder of bfloat16 weights; returns the number of parameters."""
    rng = np.random.default_rng(0)
    shapes = abstract_model(architecture)
    model = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32) * 0.04 - 0.02, shapes)
    save_model(model, architecture, folder, dtype="bfloat16", tokenizer_dir=None)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def memory_of(process: int) -> float:
    """Bytes that are a process's own, without pages of files, which the kernel takes back when it wants to."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return sum(1024.0 * int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in fields)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_no_process_holds_more_than_its_share(tmp_path, capsys):
    num_params = write_random(qwen3_4b(NUM_LAYERS), tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(SCRIPT.parents[2])}
    processes, logs = [], [tmp_path / f"{process}.log" for process in range(2)]
    for process, log in enumerate(logs):
        command = [sys.executable, SCRIPT, tmp_path / "model", tmp_path / "out", str(process), str(port)]
        with log.open("w") as errors:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
            )
    stage, most = ["start"], defaultdict(lambda: [0.0, 0.0])

    def sample():
        while any(process.poll() is None for process in processes):
            for number, process in enumerate(processes):
                most[stage[0]][number] = max(most[stage[0]][number], memory_of(process.pid))
            time.sleep(0.02)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for line in processes[0].stdout:
            stage[0] = line.strip() if line.strip() in STAGES else stage[0]
        assert [process.wait(timeout=60) for process in processes] == [0, 0], [log.read_text()[-2000:] for log in logs]
    finally:
        for process in processes:
            process.kill()
        sampler.join()
    share = BYTES_PER_PARAM * num_params / 2
    base = max(most["start"])
    with capsys.disabled():
        print(f"\n{num_params / 1e6:.0f} million parameters, share {share / GB:.2f} GB; before: {base / GB:.2f} GB")
        for name, figures in most.items():
            sizes = "  ".join(f"process {n}: {size / GB:5.2f} GB" for n, size in enumerate(figures))
            print(f"  {name:10} {sizes}")
    for name in (
        "load",
        "export",
        "checkpoint",
    ):  # what a restore reads ahead is on a GPU's host, not beside the weights
        assert max(most[name]) <= share + 2 * GB, name
