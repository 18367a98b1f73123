"""`scripts/plan.py`: what a config costs on a fleet that is not here.

In: a config, a kind of GPU, a number of them. Out: a table for people, or JSON. The update is compiled for the fleet at
the config's size and at a few others; everything else is arithmetic on top of it, and every assumption is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.planning.fleet import Fleet, find_gpu

TIME_LIMIT_S = 85.0
"""Sizes beyond the config's own are compiled until this much time is gone."""

CONTEXT_CAP_TOKENS = 131072
"""The longest row that is asked for: what YaRN with factor 4 gives Qwen3."""

ROWS_CAP = 256


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of scripts/plan.py."""
    parser.add_argument("--gpu", default="b200", metavar="KIND", help="b200, h100 or h200 (default: b200)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs (default: those of the config's mesh)")
    parser.add_argument("--json", default="", metavar="FILE", help="also write JSON; - : to stdout, instead of tables")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="steps of a run (default: num_steps)")
    parser.add_argument(
        "--completion-tokens", type=int, default=0, metavar="N",
        help="mean tokens of a completion (default: half of rollout.max_completion_tokens)",
    )  # fmt: skip
    parser.add_argument(
        "--kept-groups", type=float, default=0.5, metavar="SHARE", help="groups with unequal rewards (default: 0.5)"
    )
    parser.add_argument(
        "--compiler", choices=("auto", "gpu", "host"), default="auto",
        help="gpu: the real one (extra `plan`); host: estimates; auto: gpu where it is installed (default)",
    )  # fmt: skip


def run(config: TrainConfig, options: argparse.Namespace) -> int:
    """Plans, prints, writes; returns the exit code.

    Raises:
        UserError: an option that cannot be, a mesh that the model does not divide into, or an update that does not
            fit; with what would.
    """
    _check(config, options)
    fleet = Fleet(gpu=find_gpu(options.gpu), num_gpus=options.gpus or config.mesh.num_devices)
    with _native_messages_held() as stderr:
        from nouscoder_jax.planning import report  # jax takes seconds, and its plugins print to stderr

        with stderr.status("starting the compiler") as status:
            plan = make_plan(config, fleet, options, tell=lambda text: status.update(text))
    text = json.dumps(plan, indent=2)
    if options.json == "-":
        print(text)
        return 0
    if options.json:
        _write(Path(options.json), text)
    report.show(plan, Console(width=max(100, Console().width)))
    return 0


def make_plan(
    config: TrainConfig, fleet: Fleet, options: argparse.Namespace, *, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The whole plan as JSON values; `tell` hears what is being done. Raises UserError as `run`."""
    from nouscoder_jax.model.attention import check_attention
    from nouscoder_jax.planning import costs, report, rollouts
    from nouscoder_jax.planning.compile import ask_for_host_devices, gpu_compiler_missing
    from nouscoder_jax.planning.head import head_cost
    from nouscoder_jax.planning.meshes import choose_mesh, find_meshes, peak_on
    from nouscoder_jax.planning.search import Compilations, check_it_fits, check_state_fits
    from nouscoder_jax.planning.sizes import find_architecture

    started, file_config = time.monotonic(), load_config_file(Path(options.config))
    if options.compiler == "host" or (options.compiler == "auto" and gpu_compiler_missing()):
        ask_for_host_devices(fleet.num_gpus)  # their number is fixed by the first use of jax, which is next
    architecture = find_architecture(config.model.path)
    check_attention(
        config.model.attention,
        platform="gpu",
        compute_dtype=config.model.compute_dtype,
        head_dim=architecture.head_dim,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        packed=config.experience.packed_rows,
    )
    mesh = choose_mesh(architecture, config.mesh, fleet.num_gpus)
    check_state_fits(architecture, mesh, fleet)
    rows = config.experience.rows_per_micro_batch // config.mesh.num_row_shards
    workload = costs.make_workload(
        config,
        completion_tokens=options.completion_tokens or config.rollout.max_completion_tokens // 2,
        kept_groups=options.kept_groups,
    )
    compilations = Compilations(
        config, architecture, fleet, mesh,
        compiler=options.compiler,
        num_micro_batches=workload.micro_batches(rows * mesh.num_row_shards),
        deadline=started + TIME_LIMIT_S,
        tell=tell,
    )  # fmt: skip
    program = compilations.measure(config.experience.row_tokens, rows)
    check_it_fits(compilations, program)
    longest = compilations.longest_row(program, cap=max(CONTEXT_CAP_TOKENS, program.row_tokens))
    most_rows = compilations.most_rows(program, cap=max(ROWS_CAP, rows))
    planned = compilations.config_of(program.row_tokens, rows)
    cost = costs.update_cost(
        architecture, planned, fleet, program.collectives,
        rows_per_gpu=rows, sequence_tokens=float(workload.sequence_tokens),
    )  # fmt: skip

    def trainer_on(num_gpus: int) -> tuple[MeshConfig, int] | None:
        meshes = [mesh] if num_gpus == fleet.num_gpus else find_meshes(architecture, num_gpus)
        if not meshes:
            return None
        return meshes[0], peak_on(architecture, meshes[0], measured=mesh, peak_bytes=program.peak_bytes)

    placed = rollouts.placements(architecture, config, fleet, workload, cost, trainer_on=trainer_on, rows_per_gpu=rows)
    heads = [
        head_cost(
            config, workload,
            train_gpus=one.train_gpus,
            rows_per_micro_batch=one.planned.experience.rows_per_micro_batch,
            step_s=one.step_s,
        )
        for one in sorted(placed, key=lambda one: one.train_gpus)
    ]  # fmt: skip
    return report.to_dict(
        config, architecture, fleet, mesh, workload, program, cost, placed, heads,
        longest=longest,
        most_rows=most_rows,
        compiler=compilations.compiler_text,
        estimates=compilations.estimates,
        notes=compilations.notes,
        steps=options.steps or config.num_steps,
        kept_groups=options.kept_groups,
        config_path=options.config,
        file_config=file_config,
        seconds=time.monotonic() - started,
    )  # fmt: skip


def _check(config: TrainConfig, options: argparse.Namespace) -> None:
    if options.gpus < 0 or options.steps < 0:
        raise UserError(f"--gpus {options.gpus} and --steps {options.steps}: neither can be below 0")
    if not 0 < options.kept_groups <= 1:
        raise UserError(f"--kept-groups got {options.kept_groups}; use a share above 0 and up to 1")
    longest = config.rollout.max_completion_tokens
    if not 0 <= options.completion_tokens <= longest:
        raise UserError(
            f"--completion-tokens got {options.completion_tokens}; use 1 to {longest} (rollout.max_completion_tokens)"
        )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); give --json a place you may write to") from error


@contextlib.contextmanager
def _native_messages_held() -> Iterator[Console]:
    """Keeps what native code prints to stderr (no driver found, and the like) unless something fails; gives a console
    on the real one."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held, os.fdopen(real, "w", encoding="utf-8") as stream:
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield Console(file=stream)
            failed = False
        except (UserError, KeyboardInterrupt):
            failed = False
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stream.fileno(), 2)
            if failed:
                held.seek(0)
                stream.write(held.read().decode(errors="replace"))
                stream.flush()
