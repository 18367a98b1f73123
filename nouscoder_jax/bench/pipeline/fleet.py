"""The machines of `bench.py pipeline`: what `scripts/plan.py` says of a config on a fleet, as `Setting`s.

In: a config, a fleet, Traffic, and the JSON of a plan where there is one. Out: `Placed`s, the fastest first. Without a
plan the update is the roofline of planning/costs.py with the collectives of a sharded update by formula: weights
gathered twice a micro-batch in bfloat16, gradients scattered once in float32, shards summed over `data` once an update;
and its memory is the state's and what activations took where it was compiled.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.bench.pipeline.simulate import Setting
from nouscoder_jax.bench.pipeline.traffic import Traffic, lengths
from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning import costs, rollouts
from nouscoder_jax.planning.costs import PACKING_EFFICIENCY, Workload
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, Fleet
from nouscoder_jax.planning.hlo import Collective
from nouscoder_jax.planning.meshes import choose_mesh, find_meshes, peak_on, state_bytes
from nouscoder_jax.planning.rollouts import Placement
from nouscoder_jax.planning.sizes import find_architecture, parameter_count

KEPT_GROUPS = 0.5
"""Groups with unequal rewards, for the order of placements; the simulation counts its own."""

ACTIVATION_BYTES = 3.1
"""Bytes a token of a row, a layer and a hidden dimension, above weights, moments and gradients: 20.8 GB for Qwen3-14B
and 32,768 tokens, as scripts/plan.py has compiled it for 48 B200."""

UpdateTime = Callable[[int], float]
"""Seconds of a step's updates, from its tokens, prompts included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A placement and the machines that it makes.

    Example:
        Placed(plan=Placement(kind="split", train_gpus=8, ...), setting=Setting(...), room=98)
    """

    plan: Placement
    setting: Setting
    room: int
    """Sequences of mean length that the cache of one server holds."""

    @property
    def told(self) -> str:
        """For people."""
        plan = self.plan
        if plan.kind == "colocated":
            return f"{plan.train_gpus} GPUs, both"
        return f"{plan.train_gpus} train + {plan.generate_gpus} generate"


def share_of(config: TrainConfig, fleet: Fleet, *, groups_per_step: int) -> TrainConfig:
    """The config on a fleet of another size: the same rows a GPU, groups in proportion (or as many as given)."""
    if fleet.num_gpus == config.mesh.num_devices and not groups_per_step:
        return config
    mesh = choose_mesh(find_architecture(config.model.path), config.mesh, fleet.num_gpus)
    whole_machines = fleet.num_gpus % GPUS_PER_MACHINE == 0
    mesh = dataclasses.replace(mesh, num_processes=fleet.num_gpus // GPUS_PER_MACHINE if whole_machines else 1)
    whole = config.experience.updates_per_batch
    share = config.rollout.groups_per_step * fleet.num_gpus / config.mesh.num_devices
    groups = groups_per_step or max(1, round(share / whole)) * whole
    rows = _rows_per_gpu(config) * mesh.data * mesh.fsdp
    return dataclasses.replace(
        config,
        mesh=mesh,
        rollout=dataclasses.replace(config.rollout, groups_per_step=groups),
        experience=dataclasses.replace(config.experience, rows_per_micro_batch=rows),
    )


def find_settings(
    config: TrainConfig, fleet: Fleet, traffic: Traffic, plan: dict[str, Any] | None, *, slots: int
) -> list[Placed]:
    """Every placement that fits, as `scripts/plan.py` orders them. `slots`: sequences a server, as far as its cache has
    room; 0: rollout.num_slots. Raises UserError where there is none."""
    a = find_architecture(config.model.path)
    workload = _workload(config, traffic)
    found = _from_plan(config, fleet, plan) if plan else _by_formula(a, config, fleet, workload)
    if not found:
        raise UserError(
            f"no placement of {config.model.path} on {fleet.num_gpus} {fleet.gpu.name} fits; give more --gpus"
        )
    return [
        _place(a, config, fleet, placement, update_s, drawn=lengths(traffic), workload=workload, slots=slots)
        for placement, update_s in found
    ]


def read_plan(path: Path) -> dict[str, Any]:
    """What `scripts/plan.py --json FILE` wrote. Raises UserError."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        missing = {"model", "gpu", "gpus", "rows_per_gpu", "mesh", "workload", "update", "placements"} - plan.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--plan got {path} ({error}); give what scripts/plan.py --json FILE has written") from error
    if missing:
        raise UserError(f"--plan got {path}, which lacks {', '.join(sorted(missing))}; write it with scripts/plan.py")
    return plan


def update_time(
    *, row_tokens: int, rows_per_micro_batch: int, updates: int, micro_batch_s: float, once_s: float
) -> UpdateTime:
    """`micro_batch_s`: forward and backward, and the forward pass of recomputed logprobs before them; `once_s`: of each
    update."""

    def seconds(num_tokens: int) -> float:
        rows = math.ceil(num_tokens / (row_tokens * PACKING_EFFICIENCY))
        micro_batches = max(1, math.ceil(rows / updates / rows_per_micro_batch))
        return updates * (micro_batches * micro_batch_s + once_s)

    return seconds


def _place(
    a: Architecture, config: TrainConfig, fleet: Fleet, placement: Placement, update_s: UpdateTime, *,
    drawn: tuple[int, ...], workload: Workload, slots: int,
) -> Placed:  # fmt: skip
    engine = placement.engine
    # Of what is under way at any time, long completions are a larger part than of what is drawn.
    resident = workload.prompt_tokens + statistics.fmean(one**2 for one in drawn) / statistics.fmean(drawn) / 2
    roomiest = rollouts.find_engine(
        a, fleet.gpu, bytes_per_gpu=placement.engine_memory_fraction * fleet.gpu.memory_bytes, workload=workload,
        num_slots=10**9, in_flight_per_gpu=1e9, longest_tokens=0, max_tensor=engine.tensor,
    )  # fmt: skip
    room = roomiest.sequences if roomiest else engine.sequences

    @functools.cache
    def decode_step_s(number: int) -> float:
        return rollouts.decode_step_s(a, fleet.gpu, tensor=engine.tensor, sequences=number, resident=resident)

    setting = Setting(
        servers=max(1, placement.generate_gpus // engine.tensor),
        slots_per_server=min(slots or config.rollout.num_slots, room),
        decode_step_s=decode_step_s,
        update_s=update_s,
        export_s=placement.reload_s / 2,  # plan counts a write and a read at one rate
        reload_s=placement.reload_s / 2,
        num_workers=config.verifier.num_workers,
        prompt_tokens=workload.prompt_tokens,
        colocated=placement.kind == "colocated",
    )
    return Placed(plan=placement, setting=setting, room=room)


def _workload(config: TrainConfig, traffic: Traffic) -> Workload:
    mean = max(1, round(statistics.fmean(lengths(traffic))))
    return costs.make_workload(config, completion_tokens=mean, kept_groups=KEPT_GROUPS)


def _rows_per_gpu(config: TrainConfig) -> int:
    return max(1, config.experience.rows_per_micro_batch // config.mesh.num_row_shards)


def _by_formula(
    a: Architecture, config: TrainConfig, fleet: Fleet, workload: Workload
) -> list[tuple[Placement, UpdateTime]]:  # fmt: skip
    mesh, rows_per_gpu = choose_mesh(a, config.mesh, fleet.num_gpus), _rows_per_gpu(config)
    cost = costs.update_cost(
        a, config, fleet, _collectives(a, mesh),
        rows_per_gpu=rows_per_gpu, sequence_tokens=float(workload.sequence_tokens),
    )  # fmt: skip
    activations = ACTIVATION_BYTES * a.num_layers * a.hidden_size * config.experience.row_tokens * rows_per_gpu
    peak = state_bytes(a, mesh) + int(activations)
    forward_s = cost.forward_s if config.loss.old_logprobs == "recomputed" else 0.0

    def trainer_on(num_gpus: int) -> tuple[MeshConfig, int] | None:
        meshes = [mesh] if num_gpus == fleet.num_gpus else find_meshes(a, num_gpus)
        return (meshes[0], peak_on(a, meshes[0], measured=mesh, peak_bytes=peak)) if meshes else None

    def updates(train_gpus: int) -> UpdateTime:
        return update_time(
            row_tokens=config.experience.row_tokens,
            rows_per_micro_batch=rows_per_gpu * train_gpus // config.mesh.tensor,
            updates=config.experience.updates_per_batch,
            micro_batch_s=cost.micro_batch_s + forward_s,
            once_s=cost.once_s,
        )

    found = rollouts.placements(
        a, config, fleet, workload, cost, trainer_on=trainer_on, rows_per_gpu=rows_per_gpu
    )  # fmt: skip
    return [(one, updates(one.train_gpus)) for one in found]


def _from_plan(config: TrainConfig, fleet: Fleet, plan: dict[str, Any]) -> list[tuple[Placement, UpdateTime]]:
    got = (plan["model"], plan["gpu"], plan["gpus"])
    wanted = (config.model.path, fleet.gpu.title, fleet.num_gpus)
    if got != wanted:
        raise UserError(
            f"--plan is of {got[0]} on {got[2]} x {got[1]}, this is {wanted[0]} on {wanted[2]} x {wanted[1]}"
        )
    workload, once_s = Workload(**plan["workload"]), plan["update"]["once_s"]
    found = []
    for one in plan["placements"]:
        fields = {name: value for name, value in one.items() if name != "commands"}
        placement = Placement(**fields | {"engine": rollouts.Engine(**one["engine"]), "planned": config})
        rows = plan["rows_per_gpu"] * placement.train_gpus // plan["mesh"]["tensor"]
        seconds = update_time(
            row_tokens=workload.row_tokens,
            rows_per_micro_batch=rows,
            updates=workload.updates,
            micro_batch_s=(placement.train_s / workload.updates - once_s) / workload.micro_batches(rows),
            once_s=once_s,
        )
        found.append((placement, seconds))
    return found


def _collectives(a: Architecture, mesh: MeshConfig) -> list[Collective]:
    """Of an update whose weights are sharded over fsdp and tensor, as the module's docstring says."""
    parameters = parameter_count(a) // mesh.tensor
    shards, replicas = tuple(range(mesh.fsdp)), tuple(range(0, mesh.data * mesh.fsdp * mesh.tensor, mesh.fsdp))
    kinds = (
        ("all-gather", "bf16", 2 * parameters, shards, 2),
        ("reduce-scatter", "f32", 4 * parameters, shards, 1),
        ("all-reduce", "f32", 4 * parameters // mesh.fsdp, replicas, 1),
    )
    return [
        Collective(
            kind=kind, dtype=dtype, bytes=size, largest_bytes=size, group=group, count=count,
            in_open_loop=kind != "all-reduce",
        )
        for kind, dtype, size, group, count in kinds
        if len(group) > 1
    ]  # fmt: skip
