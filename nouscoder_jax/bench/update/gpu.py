"""`bench.py update --gpu`: one update of a 1.7B-shaped Qwen3 on one GPU, in TFLOP/s and MFU.

In: options. Out: a table, a JSON file where asked for. Weights and tokens are random, every row is one sequence, so
that no position is padding. FLOPs are those of planning.sizes, as MFU counts them: what is computed again does not
count.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nouscoder_jax import sharding
from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.update.workload import QUICK_ARCHITECTURE
from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning.fleet import find_gpu
from nouscoder_jax.planning.sizes import find_architecture, forward_flops, model_flops
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import init
from nouscoder_jax.training.update import make_update
from nouscoder_jax.types import Batch

DAPO_CONFIG = Path(__file__).parents[3] / "configs" / "dapo.py"
MODEL = "Qwen/Qwen3-1.7B"
BUDGET_S = 200.0
"""Of a case: no further round starts after it, so that all ends within 8 minutes."""
GOAL_MFU = 0.5
NUM_MICRO_BATCHES = 2
CASES = ((8192, 4), (32768, 1))
"""Row tokens, rows of a micro-batch: as many tokens in both."""
QUICK_CASES = ((64, 2),)


def is_here() -> bool:
    """Whether jax sees a GPU."""
    return jax.default_backend() == "gpu"


def run(options: argparse.Namespace) -> int:
    """Measures every case and reports. With --quick a tiny model, on a CPU too. Raises UserError where there is no
    GPU."""
    device = jax.devices()[0]
    if not is_here() and not options.quick:
        raise UserError(f"--gpu found only {device.platform}; run it on a machine with a GPU and jax[cuda12]")
    facts = machine.describe(("jax", "flax")) | {"device": device.device_kind}
    architecture = QUICK_ARCHITECTURE if options.quick else find_architecture(MODEL)
    contenders = []
    for case in QUICK_CASES if options.quick else CASES:
        contenders.append(contender(*case, architecture, attention="pallas" if is_here() else "reference"))
        rounds.take_turns(contenders[-1:], rounds=options.rounds, until=time.monotonic() + BUDGET_S)
        contenders[-1].turn = lambda: None  # lets go of the weights
    report(contenders, facts, peak_flops=peak_flops(device)).finish(options)
    return 0


def contender(row_tokens: int, rows: int, architecture: Architecture, *, attention: str) -> Contender:
    """A turn is one update; its work is in TFLOP."""
    config = make_config(row_tokens, rows, attention=attention)
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    state = init(architecture, make_optimizer(config.optimizer), jax.random.key(0), mesh=mesh)
    update = make_update(config, architecture, mesh, loss_name=config.loss.name)
    batch = make_batch((rows * NUM_MICRO_BATCHES, row_tokens), vocab_size=architecture.vocab_size)

    def turn() -> dict[str, float]:
        nonlocal state
        state, metrics = update(state, batch, NUM_MICRO_BATCHES, None)
        jax.block_until_ready(state)
        if not np.isfinite(metrics["loss"]):
            raise RuntimeError(f"the loss is {metrics['loss']}")
        return {"tokens": float(batch.tokens.size)}

    forward = forward_flops(architecture, num_tokens=batch.tokens.size, sequence_tokens=float(row_tokens))
    name = f"rows of {row_tokens}, {NUM_MICRO_BATCHES} x {rows}, {attention}"
    return Contender(name=name, turn=turn, work=model_flops(forward).total / 1e12)


def report(contenders: list[Contender], facts: dict[str, Any], *, peak_flops: float) -> Report:
    """A row a case, and its target: the share of the GPU's dense bf16 peak in the middle round."""
    figures = {"TFLOP/s": ("speed", 1.0), "s/update": ("wall_s", 1.0), "tokens": ("tokens", 1.0)}
    first = contenders[0].name
    found = Report(bench="update_gpu", facts=facts, **rounds.table(contenders, figures, reference=lambda one: first))
    for one in contenders:
        speed = one.median("speed")
        got = 1e12 * speed / peak_flops if speed and peak_flops else None
        found.targets.append(Target(what=f"MFU, {one.name}", goal=GOAL_MFU, got=got))
    return found


def make_config(row_tokens: int, rows: int, *, attention: str) -> TrainConfig:
    """configs/dapo.py on one device: bf16 compute, every layer recomputed in the backward pass."""
    config = load_config_file(DAPO_CONFIG)
    return dataclasses.replace(
        config,
        mesh=MeshConfig(data=1, fsdp=1, tensor=1, num_processes=1, coordinator_address=""),
        model=dataclasses.replace(config.model, attention=attention, compute_dtype="bfloat16", remat="layer"),
        data=dataclasses.replace(config.data, max_prompt_tokens=row_tokens // 2),
        rollout=dataclasses.replace(config.rollout, max_completion_tokens=row_tokens // 2),
        loss=dataclasses.replace(
            config.loss, old_logprobs="behavior", correction="none", max_ratio=0.0, max_drift_mean=0.0, max_drift=0.0
        ),
        experience=dataclasses.replace(config.experience, row_tokens=row_tokens, rows_per_micro_batch=rows),
    )


def make_batch(shape: tuple[int, int], *, vocab_size: int) -> Batch:
    """Rows of one sequence each, without padding; the first sixteenth is the prompt."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocab_size, shape).astype(np.int32)
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return Batch(
        tokens=tokens,
        targets=np.roll(tokens, -1, axis=1),
        positions=positions.copy(),
        segment_ids=np.ones(shape, np.int32),
        loss_mask=(positions >= shape[1] // 16) & (positions < shape[1] - 1),
        on_policy=np.zeros(shape, bool),
        behavior_logprobs=rng.normal(-np.log(vocab_size), 0.2, shape).astype(np.float32),
        advantages=np.broadcast_to(rng.normal(size=(shape[0], 1)), shape).astype(np.float32),
    )


def peak_flops(device: Any) -> float:
    """Dense bf16 FLOP/s of a GPU whose name holds that of one we know; 0 for others."""
    kind = device.device_kind.lower()
    return next((find_gpu(name).peak_flops for name in ("b200", "h200", "h100") if name in kind), 0.0)
