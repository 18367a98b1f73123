"""How fast new weights reach the disk, beside `cp` of the same bytes: `python scripts/bench.py export`.

In: options. Out: a table, the target as met or not met, a JSON file where asked for.

A Qwen3 of the 1.7B's shape with fewer layers, random float32 weights on the device, is exported in bfloat16; then its
folder is copied with `cp` and read again with all hashes compared. They take turns over rounds, and a ratio compares
within a round. Before each turn its target is deleted and the disk synchronised; each turn ends when its bytes are on
the disk (`cp` is followed by `sync` of the copied files). Whatever is read lies in the page cache, for all of them.

On the CPU the export also casts and transposes on the cores that hash and write. "layers ready" leaves that out: it is
what remains for the host where a GPU does it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nouscoder_jax.bench import in_turn, machine
from nouscoder_jax.bench.in_turn import Timed
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs
from nouscoder_jax.bench.results import Report, Target, median, quotients, spread
from nouscoder_jax.bench.update.workload import QUICK_ARCHITECTURE
from nouscoder_jax.bench.weights import reload
from nouscoder_jax.bench.weights.random_folder import folder_on
from nouscoder_jax.manifest import check_files, read_manifest
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import abstract_model
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.model.weights_plan import Unit, plan_files
from nouscoder_jax.model.weights_writer import Piece, gather_from, write_shards
from nouscoder_jax.planning.sizes import find_architecture
from nouscoder_jax.training.export import export

MODEL = "Qwen/Qwen3-1.7B"
GOAL_RATIO = 0.8
"""Of cp's GB/s."""
CP, EXPORT, READY, CHECK = "cp + sync", "export", "export, layers ready", "check all hashes"
_LIMIT_S = 400.0
"""No further round starts after this."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py export`."""
    parser.add_argument("--layers", default=14, type=int, help="of 50 million parameters each (default: 14, 2.0 GB)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of the exported weights")
    parser.add_argument("--folder", default=Path(tempfile.gettempdir()), type=Path, help="on the disk to measure")
    parser.add_argument("--rounds", default=5, type=int, help="times each contender has its turn (default: 5)")
    parser.add_argument("--sglang-python", default="", metavar="PYTHON", help="also: a CPU server takes the weights")
    parser.add_argument("--quick", action="store_true", help="1 round, a tiny model: does it work?")
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    until = time.monotonic() + _LIMIT_S
    _check(options)
    console = machine.console(width_chars=140)
    facts = machine.describe(("jax", "jaxlib"))
    on_gpu = jax.default_backend() == "gpu"
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "CPU"
    architecture = architecture_of(num_layers=options.layers, tiny=options.quick)
    reloaded = None
    with folder_on(options.folder) as folder, console.status("export") as status:
        contenders = make_contenders(architecture, folder, dtype=options.dtype)
        results = measure(contenders, folder, rounds=options.rounds, until=until, say=status.update)
        manifest = read_manifest(folder / EXPORT)
        num_bytes = sum(entry.bytes for entry in manifest.files.values())
        if options.sglang_python:
            reloaded = reload.measure_reload(
                options.sglang_python,
                folder / EXPORT,
                num_bytes=num_bytes,
                export=contenders[EXPORT],
                say=status.update,
            )
    settings = {"layers": options.layers, "dtype": options.dtype, "bytes": num_bytes, "files": len(manifest.files)}
    found = report(results, facts, num_bytes=num_bytes)
    found.content["settings"] = settings
    found.notes.append(f"{num_bytes / 1e9:.2f} GB {options.dtype} in {len(manifest.files)} files")
    if reloaded:
        found.content["reload"] = asdict(reloaded)
        found.notes.append(reload.told(reloaded))
    found.show(console)
    found.write(options.out)
    return 0


def architecture_of(*, num_layers: int, tiny: bool) -> Architecture:
    """The shape of Qwen3-1.7B, or of something tiny."""
    return dataclasses.replace(QUICK_ARCHITECTURE if tiny else find_architecture(MODEL), num_layers=num_layers)


def random_model(architecture: Architecture) -> Qwen3:
    """A model of random weights on the device. Numbers repeat every 4 million: nothing here compresses them."""
    block = jax.random.normal(jax.random.key(0), (1 << 22,), jnp.float32)
    fill = jax.jit(lambda shape: jnp.resize(block, shape), static_argnums=0)
    return jax.tree.map(lambda leaf: fill(leaf.shape), abstract_model(architecture))


def make_contenders(architecture: Architecture, folder: Path, *, dtype: Any) -> dict[str, Callable[[], None]]:
    """What takes turns, by name; each writes folder/NAME. The first export is made here: it compiles."""
    model = random_model(architecture)
    exported = folder / EXPORT

    def whole() -> None:
        export(model, architecture, exported, dtype=dtype, tokenizer_dir=None, policy_version=1)

    shards = plan_files(architecture, dtype=dtype, num_processes=1)
    gather = gather_from(model, dtype=dtype)
    units = [unit for shard in shards for unit in shard.units]
    ready = {
        next(iter(unit.names)): [
            [(one.name, np.asarray(one.array)[one.skip :]) for one in some] for some in gather(unit)
        ]
        for unit in units
    }

    def gather_ready(unit: Unit) -> Any:
        for pieces in ready[next(iter(unit.names))]:
            yield [Piece(name, array) for name, array in pieces]

    def from_ready() -> None:
        (folder / READY).mkdir()
        write_shards(gather_ready, shards, folder / READY, dtype=dtype, policy_version=1, process=0, num_processes=1)

    whole()
    return {
        CP: partial(_copy, exported, folder / CP),
        EXPORT: whole,
        READY: from_ready,
        CHECK: partial(_read, exported),
    }


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *sorted(target.iterdir()), target], check=True)


def _read(folder: Path) -> None:
    check_files(read_manifest(folder), folder, contents=True)


def measure(
    contenders: dict[str, Callable[[], None]],
    folder: Path,
    *,
    rounds: int,
    until: float,
    say: Callable[[str], None],
) -> list[Timed]:
    """A result a contender, all in turn; no round starts after `until`. What a contender has written is deleted before
    it writes again, and the disk has nothing left to do."""

    def before(number: int, name: str) -> None:
        say(f"round {number + 1} of {rounds}: {name}")
        if name in (CP, READY):
            shutil.rmtree(folder / name, ignore_errors=True)
        os.sync()

    results = [Timed(name=name) for name in contenders]
    in_turn.measure(contenders, results, rounds=rounds, until=until, cpu_s=_cpu_s, before=before)
    return results


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ratios(result: Timed, results: list[Timed]) -> list[float]:
    """GB/s as a multiple of cp's in the same round."""
    (cp,) = (one for one in results if one.name == CP)
    return quotients(cp.wall_s, result.wall_s)


def report(results: list[Timed], facts: dict[str, Any], *, num_bytes: int) -> Report:
    """Every round, medians, and the target."""
    gigabytes = num_bytes / 1e9
    rows, kept, targets = [], [], []
    for one in results:
        figures = [[gigabytes / value for value in one.wall_s], [value / gigabytes for value in one.cpu_s]]
        figures.append(ratios(one, results))
        rows.append([one.name, *map(spread, figures)])
        middles = [median(values) for values in figures]
        names = ("gb_per_s", "cpu_s_per_gb", "cp_ratio")
        kept.append(asdict(one) | dict(zip(names, middles, strict=True)))
        if one.name in (EXPORT, READY):
            targets.append(Target(what=f"{one.name}: GB/s / cp's", goal=GOAL_RATIO, got=middles[-1]))
    return Report(
        bench="export", facts=facts, title="weights to the disk",
        heads=["what", "GB/s", "CPU s / GB", "GB/s / cp's"], rows=rows, targets=targets, content={"results": kept},
        notes=["Median (lowest..highest) of the rounds; sources in the page cache, results on the disk."],
    )  # fmt: skip


def _check(options: argparse.Namespace) -> None:
    check_numbers(options, "layers", "rounds")
    check_outputs(options)
    if options.quick:
        options.rounds, options.layers = 1, 2
