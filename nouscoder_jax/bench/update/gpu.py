"""`bench.py update --gpu`: one update of a 1.7B-shaped Qwen3 on one GPU, in TFLOP/s and MFU.

In: this machine's GPU. Out: a table, a JSON file where asked for. Weights and tokens are random, every row is one
sequence, so that no position is padding. Ends within 8 minutes: rounds that would go beyond are left out.
FLOPs are those of planning.sizes, as MFU counts them: what is computed again does not count.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from nouscoder_jax import sharding
from nouscoder_jax.bench import machine
from nouscoder_jax.bench.results import Report, Target, readable
from nouscoder_jax.bench.update.workload import QUICK_ARCHITECTURE
from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning.fleet import find_gpu
from nouscoder_jax.planning.sizes import find_architecture, forward_flops, model_flops, parameter_count
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import init
from nouscoder_jax.training.update import make_update
from nouscoder_jax.types import Batch

DAPO_CONFIG = Path(__file__).parents[3] / "configs" / "dapo.py"
MODEL = "Qwen/Qwen3-1.7B"
ROUNDS = 5
BUDGET_S = 400.0
"""For all cases together; compilation and the last update may go beyond it and still end within 8 minutes."""
GOAL_MFU = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Rows of one length.

    Example:
        Case(row_tokens=8192, rows_per_micro_batch=4, num_micro_batches=2)
    """

    row_tokens: int
    rows_per_micro_batch: int
    num_micro_batches: int

    @property
    def num_tokens(self) -> int:
        """Of one update."""
        return self.row_tokens * self.rows_per_micro_batch * self.num_micro_batches


CASES = (
    Case(row_tokens=8192, rows_per_micro_batch=4, num_micro_batches=2),
    Case(row_tokens=32768, rows_per_micro_batch=1, num_micro_batches=2),
)
QUICK_CASES = (Case(row_tokens=64, rows_per_micro_batch=2, num_micro_batches=2),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One case.

    Example:
        Measured(case=CASES[0], attention="pallas", compile_s=20.1, wall_s=[1.4, 1.4], flops=6.9e14, peak_flops=989e12)
    """

    case: Case
    attention: str
    compile_s: float
    """The first update, less the fastest."""
    wall_s: list[float]
    flops: float
    """Of one update."""
    peak_flops: float
    """0: unknown."""

    @property
    def tflops_per_s(self) -> float:
        """Of the middle round."""
        return self.flops / statistics.median(self.wall_s) / 1e12

    @property
    def mfu(self) -> float:
        """Share of the GPU's dense bf16 peak; 0 where that is unknown."""
        return 1e12 * self.tflops_per_s / self.peak_flops if self.peak_flops else 0.0


def measure(console: Console, *, quick: bool, out: Path | None) -> int:
    """Measures every case and reports. `quick`: a tiny model, on a CPU too. Raises UserError where there is no GPU."""
    device = jax.devices()[0]
    if device.platform != "gpu" and not quick:
        raise UserError(f"--gpu found only {device.platform}; run it on a machine with a GPU and jax[cuda12]")
    facts = machine.describe(("jax", "flax")) | {"device": device.device_kind}
    architecture = QUICK_ARCHITECTURE if quick else find_architecture(MODEL)
    attention = "pallas" if device.platform == "gpu" else "reference"
    end, measured = time.monotonic() + BUDGET_S, []
    for number, case in enumerate(QUICK_CASES if quick else CASES):
        share_s = (end - time.monotonic()) / (len(CASES) - number)
        measured.append(
            measure_case(case, architecture, attention=attention, peak_flops=peak_flops(device), budget_s=share_s)
        )
    facts["load_after"] = round(os.getloadavg()[0], 2)
    found = report(measured, facts, num_parameters=parameter_count(architecture))
    found.content["architecture"] = dataclasses.asdict(architecture)
    found.show(console)
    found.write(out)
    return 0


def report(measured: list[Measured], facts: dict[str, Any], *, num_parameters: int) -> Report:
    """A row a case, and its target."""
    rows, kept, targets = [], [], []
    for one in measured:
        case, middle = one.case, statistics.median(one.wall_s)
        cells = [str(case.row_tokens), f"{case.num_micro_batches} x {case.rows_per_micro_batch}", one.attention]
        cells += map(readable, (one.compile_s, middle, case.num_tokens / middle, one.tflops_per_s))
        rows.append([*cells, f"{one.mfu:.1%}" if one.peak_flops else "-"])
        figures = {"tflops_per_s": round(one.tflops_per_s, 2), "mfu": round(one.mfu, 4)}
        kept.append(dataclasses.asdict(one) | figures)
        got = one.mfu if one.peak_flops else None
        targets.append(Target(what=f"MFU at {case.row_tokens} tokens a row", goal=GOAL_MFU, got=got))
    return Report(
        bench="update_gpu", facts=facts, title=f"update, {num_parameters / 1e9:.3g}B parameters", num_labels=3,
        heads=["row tokens", "rows", "attention", "compile s", "s/update", "tokens/s", "TFLOP/s", "MFU"],
        rows=rows, targets=targets, content={"cases": kept},
    )  # fmt: skip


def measure_case(
    case: Case, architecture: Architecture, *, attention: str, peak_flops: float, budget_s: float
) -> Measured:
    """Compiles, then repeats while there is time, at least once and at most ROUNDS times."""
    end = time.monotonic() + budget_s
    config = make_config(case, attention=attention)
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    state = init(architecture, make_optimizer(config.optimizer), jax.random.key(0), mesh=mesh)
    update = make_update(config, architecture, mesh, loss_name=config.loss.name)
    batch = make_batch(case, vocab_size=architecture.vocab_size)
    times: list[float] = []
    while len(times) < 2 or (len(times) <= ROUNDS and time.monotonic() + times[-1] < end):
        start = time.perf_counter()
        state, metrics = update(state, batch, case.num_micro_batches, None)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
        if not np.isfinite(metrics["loss"]):
            raise RuntimeError(f"the loss is {metrics['loss']}")
    forward = forward_flops(architecture, num_tokens=case.num_tokens, sequence_tokens=float(case.row_tokens))
    return Measured(
        case=case,
        attention=attention,
        compile_s=times[0] - min(times[1:]),
        wall_s=times[1:],
        flops=model_flops(forward).total,
        peak_flops=peak_flops,
    )


def make_config(case: Case, *, attention: str) -> TrainConfig:
    """configs/dapo.py on one device: bf16 compute, every layer recomputed in the backward pass."""
    config = load_config_file(DAPO_CONFIG)
    one_device = MeshConfig(data=1, fsdp=1, tensor=1, num_processes=1, coordinator_address="")
    return dataclasses.replace(
        config,
        mesh=one_device,
        model=dataclasses.replace(config.model, attention=attention, compute_dtype="bfloat16", remat="layer"),
        data=dataclasses.replace(config.data, max_prompt_tokens=case.row_tokens // 2),
        rollout=dataclasses.replace(config.rollout, max_completion_tokens=case.row_tokens // 2),
        loss=dataclasses.replace(
            config.loss, old_logprobs="behavior", correction="none", max_ratio=0.0, max_drift_mean=0.0, max_drift=0.0
        ),
        experience=dataclasses.replace(
            config.experience, row_tokens=case.row_tokens, rows_per_micro_batch=case.rows_per_micro_batch
        ),
    )


def make_batch(case: Case, *, vocab_size: int) -> Batch:
    """Rows of one sequence each, without padding; the first sixteenth is the prompt."""
    rng = np.random.default_rng(0)
    shape = (case.rows_per_micro_batch * case.num_micro_batches, case.row_tokens)
    tokens = rng.integers(1, vocab_size, shape).astype(np.int32)
    positions = np.broadcast_to(np.arange(case.row_tokens, dtype=np.int32), shape)
    return Batch(
        tokens=tokens,
        targets=np.roll(tokens, -1, axis=1),
        positions=positions.copy(),
        segment_ids=np.ones(shape, np.int32),
        loss_mask=(positions >= case.row_tokens // 16) & (positions < case.row_tokens - 1),
        on_policy=np.zeros(shape, bool),
        behavior_logprobs=rng.normal(-np.log(vocab_size), 0.2, shape).astype(np.float32),
        advantages=np.broadcast_to(rng.normal(size=(shape[0], 1)), shape).astype(np.float32),
    )


def peak_flops(device: Any) -> float:
    """Dense bf16 FLOP/s of a GPU whose name holds that of one we know; 0 for others."""
    kind = device.device_kind.lower()
    return next((find_gpu(name).peak_flops for name in ("b200", "h200", "h100") if name in kind), 0.0)
