"""How training and generation share the GPUs: apart (split) or on the same ones (colocated), and the step time of each.

In: an architecture, a fleet, a workload, what an update costs. Out: `Placement`s that the loop can run. Generation is
bound by memory: to make one token for each of its sequences, an engine reads all weights once and every sequence's keys
and values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from nouscoder_jax.config import MeshConfig, TrainConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning import commands
from nouscoder_jax.planning.costs import MATMUL_EFFICIENCY, UpdateCost, Workload
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, USABLE_MEMORY, Fleet, Gpu
from nouscoder_jax.planning.sizes import kv_bytes_per_token, layer_matrix_parameters, parameter_count

DECODE_MEMORY_EFFICIENCY = 0.6
"""Share of the memory bandwidth that a decoding engine reaches."""

DECODE_OVERHEAD_S = 0.002
"""Fixed time of one decoding step: launching, sampling, the scheduler."""

ENGINE_WORKSPACE_BYTES = 3 * 10**9
"""Activations and CUDA graphs of an engine on each GPU, beside weights and cache."""

RELOAD_BYTES_PER_S = 5e9
"""Export of new weights to a shared disk, and reading them back: each at this rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One generating engine over `tensor` GPUs of a machine.

    Example:
        Engine(tensor=1, sequences=16, decode_step_s=0.009, tokens_per_s=1700.0)
    """

    tensor: int
    """GPUs that share one copy of the weights."""
    sequences: int
    """Decoded at once: as many as are in flight and their cache has room for."""
    decode_step_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Who does what, and how long a step takes.

    Example:
        Placement(kind="split", train_gpus=16, generate_gpus=32, trainer_memory_fraction=0.94,
                  engine_memory_fraction=0.94, engine=..., train_s=80.0, generate_s=150.0, reload_s=12.0, step_s=162.0,
                  planned=...)
    """

    kind: str
    """`split` or `colocated`."""
    train_gpus: int
    generate_gpus: int
    trainer_memory_fraction: float
    """XLA_PYTHON_CLIENT_MEM_FRACTION."""
    engine_memory_fraction: float
    """SGLang's --mem-fraction-static, of a whole GPU."""
    engine: Engine
    train_s: float
    generate_s: float
    reload_s: float
    step_s: float
    planned: TrainConfig
    """Of a run like this."""


def find_engine(a: Architecture, gpu: Gpu, *, bytes_per_gpu: float, workload: Workload, num_slots: int,
                in_flight_per_gpu: float, longest_tokens: int, max_tensor: int) -> Engine | None:  # fmt: skip
    """The engine with the fewest GPUs whose memory holds the weights and one sequence of the longest length.

    It decodes `num_slots` sequences at once, or as many as its cache has room for or are in flight for its GPUs. A
    sequence has, in the mean over its life, its prompt and half its completion in the cache. None: no engine fits.
    """
    weights = 2 * parameter_count(a)
    for tensor in (1, 2, 4, 8):
        room = tensor * (bytes_per_gpu - ENGINE_WORKSPACE_BYTES) - weights
        if tensor > max_tensor or a.num_kv_heads % tensor or room < longest_tokens * kv_bytes_per_token(a):
            continue
        resident = workload.prompt_tokens + workload.completion_tokens / 2
        room_for = int(room / (resident * kv_bytes_per_token(a)))
        sequences = max(1, min(room_for, num_slots, math.ceil(in_flight_per_gpu * tensor)))
        step = decode_step_s(a, gpu, tensor=tensor, sequences=sequences, resident=resident)
        return Engine(tensor=tensor, sequences=sequences, decode_step_s=step, tokens_per_s=sequences / step)
    return None


def decode_step_s(a: Architecture, gpu: Gpu, *, tensor: int, sequences: int, resident: float) -> float:
    """Seconds of one decoding step of so many sequences with `resident` tokens each in the cache: all weights and all
    keys and values are read once, or the products take longer."""
    read = 2 * parameter_count(a) + sequences * resident * kv_bytes_per_token(a)
    memory = read / (tensor * gpu.memory_bandwidth * DECODE_MEMORY_EFFICIENCY)
    flops = 2.0 * sequences * (layer_matrix_parameters(a) + a.vocab_size * a.hidden_size)
    return max(memory, flops / (tensor * gpu.peak_flops * MATMUL_EFFICIENCY)) + DECODE_OVERHEAD_S


def placements(
    a: Architecture,
    config: TrainConfig,
    fleet: Fleet,
    workload: Workload,
    cost: UpdateCost,
    *,
    trainer_on: Callable[[int], tuple[MeshConfig, int] | None],
    rows_per_gpu: int,
) -> list[Placement]:
    """The colocated placement and every split that fits and that the loop can run, fastest first.

    Split: with rollout.max_staleness above 0 both sides work at once and a step takes the slower one's time; on-policy
    they take turns. Colocated: turns and on-policy, always; trainer and engine keep their memory all the time.
    `trainer_on` tells the trainer's mesh and peak on so many GPUs (None: no mesh of that many fits).
    """
    found = []
    for train_gpus in range(1, fleet.num_gpus + 1):
        trainer = trainer_on(train_gpus) if _possible(train_gpus, fleet.num_gpus) else None
        if trainer is None or trainer[1] > fleet.gpu.usable_bytes:
            continue
        mesh, peak = trainer
        together = train_gpus == fleet.num_gpus
        trainer_share = peak / fleet.gpu.memory_bytes if together else USABLE_MEMORY
        engine_share = USABLE_MEMORY - trainer_share if together else USABLE_MEMORY
        generate_gpus = fleet.num_gpus if together else fleet.num_gpus - train_gpus
        own = _on_policy(config) if together else config
        engine = find_engine(
            a,
            fleet.gpu,
            bytes_per_gpu=engine_share * fleet.gpu.memory_bytes,
            workload=workload,
            num_slots=config.rollout.num_slots,
            in_flight_per_gpu=most_in_flight(own, workload) / generate_gpus,
            longest_tokens=config.data.max_prompt_tokens + config.rollout.max_completion_tokens,
            max_tensor=min(generate_gpus, GPUS_PER_MACHINE),
        )
        if engine is None:
            continue
        kind = "colocated" if together else "split"
        planned = _planned(
            config, mesh, kind=kind, rows_per_gpu=rows_per_gpu, generate_gpus=generate_gpus, engine_gpus=engine.tensor,
            trainer_share=trainer_share, engine_share=engine_share,
        )  # fmt: skip
        if planned is None:
            continue
        train = cost.training_s(
            micro_batches=workload.micro_batches(rows_per_gpu * mesh.num_row_shards),
            updates=workload.updates,
            recomputed=config.loss.old_logprobs == "recomputed",
        )
        generate = generation_s(a, own, fleet.gpu, workload, engine, num_gpus=generate_gpus)
        reload = 2 * 2 * parameter_count(a) / RELOAD_BYTES_PER_S
        at_once = own.rollout.max_staleness > 0
        found.append(
            Placement(
                kind=kind,
                train_gpus=train_gpus,
                generate_gpus=generate_gpus,
                trainer_memory_fraction=trainer_share,
                engine_memory_fraction=engine_share,
                engine=engine,
                train_s=train,
                generate_s=generate,
                reload_s=reload,
                step_s=(max(train, generate) if at_once else train + generate) + reload,
                planned=planned,
            )
        )
    return sorted(found, key=lambda one: one.step_s)


def _planned(
    config: TrainConfig, mesh: MeshConfig, *, kind: str, rows_per_gpu: int, generate_gpus: int, engine_gpus: int,
    trainer_share: float, engine_share: float,
) -> TrainConfig | None:  # fmt: skip
    """The config of a run placed like this; None: the loop refuses it."""
    try:
        return commands.placed(
            commands.sized(config, mesh, rows_per_gpu=rows_per_gpu),
            kind=kind,
            generate_gpus=generate_gpus,
            engine_gpus=engine_gpus,
            trainer_memory_fraction=trainer_share,
            engine_memory_fraction=engine_share,
        )
    except ValueError:
        return None


def _on_policy(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, max_staleness=0))


def _possible(train_gpus: int, num_gpus: int) -> bool:
    """Whether a training side of so many GPUs leaves whole machines; inside one machine, a power of two."""
    if num_gpus > GPUS_PER_MACHINE:
        return train_gpus % GPUS_PER_MACHINE == 0
    return train_gpus == num_gpus or train_gpus & (train_gpus - 1) == 0


def generation_s(
    a: Architecture, config: TrainConfig, gpu: Gpu, workload: Workload, engine: Engine, *, num_gpus: int
) -> float:
    """Time to generate one step's completions: their tokens at the engines' rate. On-policy, the longest completion is
    waited for as well, alone on its engine."""
    engines = max(1, num_gpus // engine.tensor)
    tokens = workload.generated_sequences * workload.completion_tokens
    rate = tokens / (engines * engine.tokens_per_s)
    if config.rollout.max_staleness > 0:
        return rate
    alone = decode_step_s(a, gpu, tensor=engine.tensor, sequences=1, resident=config.rollout.max_completion_tokens / 2)
    return max(rate, config.rollout.max_completion_tokens * alone)


def most_in_flight(config: TrainConfig, workload: Workload) -> int:
    """Completions that may be generated at once: those of the batch to come and of rollout.max_staleness more."""
    return workload.generated_sequences * (config.rollout.max_staleness + 1)


def assumptions(workload: Workload, config: TrainConfig) -> list[str]:
    """Every assumption behind the predicted step times, for people."""
    return [
        f"engines hold bf16 weights and cache, reach {DECODE_MEMORY_EFFICIENCY:.0%} of the memory bandwidth, take "
        f"{DECODE_OVERHEAD_S * 1000:g} ms a decoding step beside it, {ENGINE_WORKSPACE_BYTES / 1e9:g} GB of workspace",
        f"{config.rollout.num_slots} completions (rollout.num_slots) are in flight at each engine, or fewer where its "
        f"cache has no room or all {most_in_flight(config, workload):,} that may be drawn are; each has its prompt and "
        "half its completion in the cache in the mean; prefill is not counted",
        f"{workload.generated_sequences:,} completions are generated a step and judged behind generation; "
        f"{workload.trained_sequences:,} of them are trained on",
        f"new weights go to the engines through a shared disk at {RELOAD_BYTES_PER_S / 1e9:g} GB/s, write and read",
        "a trainer on fewer GPUs takes the same time a micro-batch; its memory is the compiled one plus larger shards",
    ]
