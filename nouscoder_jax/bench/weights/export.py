"""How fast new weights reach the disk, beside `cp` of the same bytes: `python scripts/bench.py export`.

In: options. Out: a table, the target as met or not met, a JSON file where asked for.

A Qwen3 of the 1.7B's shape with fewer layers, random float32 weights on the device, is exported in bfloat16; then its
folder is copied with `cp` and read again with all hashes compared. Before each turn its target is deleted and the disk
synchronised; each turn ends when its bytes are on the disk (`cp` is followed by `sync`). Whatever is read lies in the
page cache, for all of them.

On the CPU the export also casts and transposes on the cores that hash and write. "layers ready" leaves that out: it is
what remains for the host where a GPU does it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.cpu import tree_cpu_s
from nouscoder_jax.bench.options import add_rounds, at_least
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.update.workload import QUICK_ARCHITECTURE
from nouscoder_jax.bench.weights import reload
from nouscoder_jax.bench.weights.random_folder import folder_on
from nouscoder_jax.manifest import check_files, read_manifest
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import abstract_model
from nouscoder_jax.model.weights_plan import Unit, plan_files
from nouscoder_jax.model.weights_writer import Piece, gather_from, write_shards
from nouscoder_jax.planning.sizes import find_architecture
from nouscoder_jax.training import export as training_export

MODEL = "Qwen/Qwen3-1.7B"
DTYPE: Any = "bfloat16"
GOAL_RATIO = 0.8
"""Of cp's GB/s."""
CP, EXPORT, READY, CHECK = "cp + sync", "export", "export, layers ready", "check all hashes"
_LIMIT_S = 400.0
"""No further round starts after this."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py export`."""
    parser.add_argument("--layers", default=14, type=at_least(1), help="of 50 million parameters (default: 14, 2.0 GB)")
    parser.add_argument("--folder", default=Path(tempfile.gettempdir()), type=Path, help="on the disk to measure")
    parser.add_argument("--sglang-python", default="", metavar="PYTHON", help="also: a CPU server takes the weights")
    add_rounds(parser, rounds=5, quick="a tiny model")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    until = time.monotonic() + _LIMIT_S
    if options.quick:
        options.rounds, options.layers = 1, 2
    facts = machine.describe(("jax", "jaxlib")) | {"device": jax.devices()[0].device_kind}
    architecture = architecture_of(num_layers=options.layers, tiny=options.quick)
    reloaded = None
    with folder_on(options.folder) as folder:
        contenders = make_contenders(architecture, folder)
        measure(contenders, folder, num_rounds=options.rounds, until=until)
        if options.sglang_python:
            again = next(one.turn for one in contenders if one.name == EXPORT)
            reloaded = reload.measure_reload(
                options.sglang_python, folder / EXPORT, num_bytes=int(1e9 * contenders[0].work), export=again
            )  # fmt: skip
    found = report(contenders, facts)
    found.notes.append(f"{contenders[0].work:.2f} GB {DTYPE}; sources in the page cache, results on the disk")
    if reloaded:
        found.content["reload"] = dataclasses.asdict(reloaded)
        found.notes.append(f"reload: {reloaded}")
    found.finish(options)
    return 0


def architecture_of(*, num_layers: int, tiny: bool) -> Architecture:
    """The shape of Qwen3-1.7B, or of something tiny."""
    return dataclasses.replace(QUICK_ARCHITECTURE if tiny else find_architecture(MODEL), num_layers=num_layers)


def make_contenders(architecture: Architecture, folder: Path) -> list[Contender]:
    """Each writes folder/NAME. The first export is made here: it compiles. Weights are random numbers that repeat every
    4 million: nothing here compresses them."""
    block = jax.random.normal(jax.random.key(0), (1 << 22,), jnp.float32)
    fill = jax.jit(lambda shape: jnp.resize(block, shape), static_argnums=0)
    model = jax.tree.map(lambda leaf: fill(leaf.shape), abstract_model(architecture))
    exported = folder / EXPORT

    def whole() -> None:
        training_export.export(model, architecture, exported, dtype=DTYPE, tokenizer_dir=None, policy_version=1)

    shards = plan_files(architecture, dtype=DTYPE, num_processes=1)
    gather = gather_from(model, dtype=DTYPE)
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
        write_shards(gather_ready, shards, folder / READY, dtype=DTYPE, policy_version=1, process=0, num_processes=1)

    def copy() -> None:
        subprocess.run(["cp", "-r", exported, folder / CP], check=True)
        subprocess.run(["sync", *sorted((folder / CP).iterdir()), folder / CP], check=True)

    whole()
    gigabytes = sum(entry.bytes for entry in read_manifest(exported).files.values()) / 1e9
    turns = {CP: copy, EXPORT: whole, READY: from_ready, CHECK: lambda: _check(exported)}
    return [Contender(name=name, turn=turn, work=gigabytes) for name, turn in turns.items()]


def _check(folder: Path) -> None:
    check_files(read_manifest(folder), folder, contents=True)


def measure(contenders: list[Contender], folder: Path, *, num_rounds: int, until: float) -> None:
    """What a contender has written is deleted before it writes again, and the disk has nothing left to do."""

    def before(name: str) -> None:
        if name in (CP, READY):
            shutil.rmtree(folder / name, ignore_errors=True)
        os.sync()

    rounds.take_turns(contenders, rounds=num_rounds, warm_up=0, until=until, cpu_s=tree_cpu_s, before=before)


def report(contenders: list[Contender], facts: dict[str, Any]) -> Report:
    """A row a contender, and the targets."""
    figures = {"GB/s": ("speed", 1.0), "CPU s / GB": ("cpu_s_per_work", 1.0)}
    found = Report(bench="export", facts=facts, **rounds.table(contenders, figures, reference=lambda one: CP))
    for name in (EXPORT, READY):
        got = rounds.ratio(rounds.find(contenders, name), rounds.find(contenders, CP))
        found.targets.append(Target(what=f"{name}: GB/s / cp's", goal=GOAL_RATIO, got=got))
    return found
