"""A plan as JSON values and as tables.

In: what the other modules found. Out: a dict, and the same on a console. Bytes are of one GPU; GB are 10^9.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from nouscoder_jax.config import MeshConfig, TrainConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning import commands, costs, head, rollouts
from nouscoder_jax.planning.compile import Program
from nouscoder_jax.planning.costs import UpdateCost, Workload
from nouscoder_jax.planning.fit import Fit
from nouscoder_jax.planning.fleet import Fleet
from nouscoder_jax.planning.head import HeadCost
from nouscoder_jax.planning.hlo import by_kind, largest_all_reduce
from nouscoder_jax.planning.rollouts import Placement
from nouscoder_jax.planning.sizes import parameter_count

SHOWN_SPLITS = 5


def to_dict(
    config: TrainConfig,
    architecture: Architecture,
    fleet: Fleet,
    mesh: MeshConfig,
    workload: Workload,
    program: Program,
    cost: UpdateCost,
    placed: list[Placement],
    heads: list[HeadCost],
    *,
    longest: Fit,
    most_rows: Fit,
    compiler: str,
    estimates: bool,
    notes: list[str],
    steps: int,
    kept_groups: float,
    config_path: str,
    file_config: TrainConfig,
    seconds: float,
) -> dict[str, Any]:
    """The whole plan as JSON values."""
    widest = largest_all_reduce(program.collectives)
    micro_batches = workload.micro_batches(program.rows_per_gpu * mesh.num_row_shards)
    update_s = micro_batches * cost.micro_batch_s + cost.once_s
    return {
        "model": config.model.path,
        "parameters": parameter_count(architecture),
        "gpu": fleet.gpu.title,
        "gpus": fleet.num_gpus,
        "mesh": {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor},
        "row_tokens": program.row_tokens,
        "rows_per_gpu": program.rows_per_gpu,
        "compiler": compiler,
        "estimates": estimates,
        "notes": notes,
        "argument_bytes": program.argument_bytes,
        "temp_bytes": program.temp_bytes,
        "peak_bytes": program.peak_bytes,
        "memory_bytes": fleet.gpu.memory_bytes,
        "usable_bytes": fleet.gpu.usable_bytes,
        "collectives": by_kind(program.collectives),
        "largest_all_reduce": None
        if widest is None
        else {"bytes": widest.largest_bytes, "dtype": widest.dtype, "gpus": len(widest.group)},
        "longest_row": dataclasses.asdict(longest),
        "most_rows_per_gpu": dataclasses.asdict(most_rows),
        "update": {
            "micro_batches": micro_batches,
            "flops": _flops(cost, micro_batches),
            "compute_s": micro_batches * cost.compute_s,
            "collectives_s": micro_batches * cost.looped_collectives_s,
            "once_s": cost.once_s,
            "seconds": update_s,
            "overlapped_seconds": micro_batches * cost.overlapped_micro_batch_s + cost.once_s,
            "tokens_per_s": micro_batches * program.rows_per_gpu * program.row_tokens * mesh.num_row_shards / update_s,
            "mfu": cost.mfu,
        },
        "workload": dataclasses.asdict(workload),
        "placements": [_placement(one, file_config, config_path) for one in placed],
        "head": [dataclasses.asdict(one) for one in heads],
        "run": {
            "steps": steps,
            "step_s": placed[0].step_s if placed else None,
            "hours": steps * placed[0].step_s / 3600 if placed else None,
        },
        "assumptions": costs.assumptions(workload, kept_groups=kept_groups)
        + rollouts.assumptions(workload, config)
        + head.assumptions(),
        "seconds": seconds,
    }


def _placement(one: Placement, file_config: TrainConfig, config_path: str) -> dict[str, Any]:
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "planned"}
    told = commands.lines(file_config, one.planned, config_path=config_path, generate_gpus=one.generate_gpus)
    return fields | {"engine": dataclasses.asdict(one.engine), "commands": told}


def _flops(cost: UpdateCost, micro_batches: int) -> dict[str, float]:
    """FLOPs of an update on one GPU."""
    model = cost.model_flops
    return {
        "model": micro_batches * model.total,
        "executed": micro_batches * cost.executed_flops.total,
        "layers": micro_batches * model.layers,
        "attention": micro_batches * model.attention,
        "logits": micro_batches * model.logits,
    }


def show(plan: dict[str, Any], console: Console) -> None:
    """Prints the plan for people."""
    mesh = plan["mesh"]
    console.print(
        f"[bold]{plan['model']}[/bold], {plan['parameters']:,} parameters, on {plan['gpus']} x {plan['gpu']}: mesh "
        f"data {mesh['data']} x fsdp {mesh['fsdp']} x tensor {mesh['tensor']}, {plan['rows_per_gpu']} x "
        f"{plan['row_tokens']:,} tokens a GPU",
        highlight=False,
    )
    console.print(f"compiler: {plan['compiler']}", style="bold yellow" if plan["estimates"] else None, highlight=False)
    for note in plan["notes"]:
        console.print(f"note: {note}", style="yellow", highlight=False)
    for table in (_memory(plan), _collectives(plan), _update(plan), _placements(plan), _head(plan)):
        console.print()
        console.print(table)
    _show_run(plan, console)


def _memory(plan: dict[str, Any]) -> Table:
    table = _table("memory of one GPU", ("", "GB", "share"))
    for label, field in (
        ("arguments: weights, moments, batch", "argument_bytes"),
        ("temporaries: gradients, activations", "temp_bytes"),
        ("peak", "peak_bytes"),
        ("a program may take", "usable_bytes"),
        ("memory", "memory_bytes"),
    ):
        table.add_row(label, _gb(plan[field]), f"{plan[field] / plan['memory_bytes']:.0%}")
    for label, field, unit in (
        ("longest row", "longest_row", "tokens"),
        ("most rows a GPU", "most_rows_per_gpu", "rows"),
    ):
        fit = plan[field]
        how = "compiled" if fit["compiled"] else "from a line, not compiled"
        more = " or more" if fit["at_cap"] else ""
        table.add_row(f"{label}: {fit['size']:,} {unit}{more} ({how})", _gb(fit["peak_bytes"]), "")
    return table


def _collectives(plan: dict[str, Any]) -> Table:
    title = "collectives of an update with one micro-batch, on one GPU; how much of it each further one adds"
    table = _table(title, ("kind", "count", "GB", "further: count", "GB", "largest", "GPUs"))
    for kind, found in plan["collectives"].items():
        groups = ", ".join(str(size) for size in found["group_sizes"])
        largest = f"{_gb(found['largest_bytes'])} GB {found['largest_dtype']}"
        counts = (str(found["count"]), _gb(found["bytes"]), str(found["count_per_micro_batch"]))
        table.add_row(kind, *counts, _gb(found["bytes_per_micro_batch"]), largest, groups)
    if not plan["collectives"]:
        table.add_row("none", *[""] * 6)
    return table


def _update(plan: dict[str, Any]) -> Table:
    update = plan["update"]
    table = _table(f"an update of {update['micro_batches']} micro-batches (predicted)", ("", "one GPU"))
    flops = update["flops"]
    parts = f"layers {flops['layers']:.2e}, attention {flops['attention']:.2e}, logits {flops['logits']:.2e}"
    table.add_row(f"model FLOPs: {parts}", f"{flops['model']:.3e}")
    table.add_row("FLOPs with what is computed again", f"{flops['executed']:.3e}")
    table.add_row("products and attention", f"{update['compute_s']:.2f} s")
    table.add_row("collectives of micro-batches", f"{update['collectives_s']:.2f} s")
    table.add_row("once: sums over replicas, optimizer", f"{update['once_s']:.3f} s")
    table.add_row("update; overlapped", f"{update['seconds']:.2f} s; {update['overlapped_seconds']:.2f} s")
    table.add_row("positions a second, all GPUs", f"{update['tokens_per_s']:,.0f}")
    table.add_row("MFU", f"{update['mfu']:.0%}")
    return table


def _placements(plan: dict[str, Any]) -> Table:
    columns = (
        "placement",
        "GPUs train + generate",
        "memory: trainer, engine",
        "engine",
        "train s",
        "generate s",
        "step s",
    )
    table = _table("a step of the loop (predicted), fastest first", columns)
    splits = 0
    for one in plan["placements"]:
        splits += one["kind"] == "split"
        if one["kind"] == "split" and splits > SHOWN_SPLITS:
            continue
        engine = one["engine"]
        table.add_row(
            one["kind"],
            f"{one['train_gpus']} + {one['generate_gpus']}" if one["kind"] == "split" else f"{one['train_gpus']}, both",
            f"{one['trainer_memory_fraction']:.2f}, {one['engine_memory_fraction']:.2f}",
            f"{engine['tensor']} GPU x {engine['sequences']} seq., {engine['tokens_per_s']:,.0f} tok/s",
            f"{one['train_s']:.0f}",
            f"{one['generate_s']:.0f}",
            f"{one['step_s']:.0f}",
        )
    for kind in {"split", "colocated"} - {one["kind"] for one in plan["placements"]}:
        table.add_row(kind, "does not fit (memory, number of GPUs), or the loop refuses it", *[""] * 5)
    return table


def _head(plan: dict[str, Any]) -> Table:
    columns = ("GPUs that train", "processes", "batches to the others, GB", "s", "JSON from the engines, MB a second")
    table = _table("what the head, process 0, does beside it a step (predicted)", columns)
    for one in plan["head"]:
        table.add_row(
            str(one["train_gpus"]),
            str(one["processes"]),
            _gb(one["order_bytes"]),
            f"{one['order_s']:.1f}",
            f"{one['json_bytes_per_s'] / 1e6:.1f}",
        )
    return table


def _show_run(plan: dict[str, Any], console: Console) -> None:
    run = plan["run"]
    if run["hours"] is not None:
        best = plan["placements"][0]["kind"]
        console.print(
            f"\n{run['steps']} steps, {best}: {run['hours']:.1f} hours ({run['hours'] / 24:.1f} days), evaluation not "
            "counted",
            highlight=False,
        )
        console.print("to run it so:", highlight=False)
        for line in plan["placements"][0]["commands"]:
            console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print("\nassumed:", highlight=False)
    for assumption in plan["assumptions"]:
        console.print(f"  - {assumption}", highlight=False)
    console.print(f"\nplanned in {plan['seconds']:.0f} s", style="dim", highlight=False)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _gb(num_bytes: int | float) -> str:
    return f"{num_bytes / 1e9:,.2f}" if num_bytes >= 1e7 else f"{num_bytes / 1e9:.1g}" if num_bytes else "0"
