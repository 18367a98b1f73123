"""Our objectives beside six libraries' own functions: `python scripts/bench.py conformance`.

In: options. Out: for every objective and library value, gradient and their largest difference on the same random
inputs, as a table, a JSON file and a block of the README where asked for.

Every library runs in a process of its own on inputs in files; see environment.py for how it is installed,
rows.py for what is compared and how definitions differ, compare.py for what "agrees" means.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.conformance import compare, environment, inputs, ours, table
from nouscoder_jax.bench.conformance.compare import Answer
from nouscoder_jax.bench.conformance.environment import LIBRARIES, Answers
from nouscoder_jax.bench.conformance.rows import NOT_RUN, ROWS
from nouscoder_jax.bench.readme import write_block
from nouscoder_jax.bench.update.peers import peers_python
from nouscoder_jax.config import UserError

BLOCK = "conformance"
"""Name of the README's block."""

_NUM_SEEDS = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py conformance`."""
    parser.add_argument(
        "--peers-env", type=Path, metavar="DIR",
        help="environment of the libraries, the same as of `update`; made if new (default: in the cache folder)",
    )  # fmt: skip
    parser.add_argument("--seed", default=0, type=int, help=f"first of {_NUM_SEEDS} seeds (default: 0)")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"of {_names()} (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every number as JSON")
    parser.add_argument("--readme", type=Path, metavar="FILE", help=f"write the table into its block `{BLOCK}`")


def run(options: argparse.Namespace) -> int:
    """Compares and reports. Returns 0, or 1 where a row that should agree does not or could not run. Raises
    UserError."""
    only = _check(options)
    folder = options.peers_env or _cache()
    facts = machine.describe(("jax", "numpy"))
    peers_python(folder)
    failures = environment.install(folder)
    cases = inputs.make(seed=options.seed, num_seeds=_NUM_SEEDS)
    with tempfile.TemporaryDirectory(prefix="bench-conformance-") as place:
        files = write_inputs(cases, Path(place))
        answers = {}
        for library in LIBRARIES:
            if library.name not in only:
                continue
            print(f"asking {library.name}", file=sys.stderr)
            failure = failures.get(library.name, "")
            answers[library.name] = (
                Answers(values={}, facts={}, failure=failure)
                if failure
                else environment.ask(library, folder, Path(place))
            )
    content = {"bench": "conformance", **facts, "seed": options.seed, "tolerance": compare.TOLERANCE}
    content |= judge(cases, files, answers)
    return _report(content, options)


def write_inputs(cases: dict[str, dict[str, np.ndarray]], folder: Path) -> dict[str, str]:
    """Inputs and settings as files in the folder; the stem of each input's file by its name."""
    (folder / "settings.json").write_text(json.dumps(inputs.SETTINGS))
    stems = {name: f"inputs_{number:02d}" for number, name in enumerate(cases)}
    for name, arrays in cases.items():
        np.savez(folder / f"{stems[name]}.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return stems


def judge(
    cases: dict[str, dict[str, np.ndarray]], files: dict[str, str], answers: dict[str, Answers]
) -> dict[str, Any]:
    """Every row of the libraries that were asked, and what their processes told."""

    @functools.cache
    def computed(name: str, one: str) -> Answer:
        return ours.compute(name, cases[one])

    rows = []
    for row in ROWS:
        if row.library not in answers:
            continue
        found = answers[row.library]
        failure = found.failure or found.facts["failures"].get(f"{row.objective}/float32", "")
        single = _theirs(row.objective, files, found, "float32")
        judged = compare.compare(row, computed, single, failure=failure)
        double = _theirs(row.objective, files, found, "float64")
        if double:
            judged["float64"] = compare.compare(row, computed, double, failure="")
        rows.append(judged)
    reached = {name: inputs.reached(arrays) for name, arrays in cases.items()}
    libraries = {name: found.facts for name, found in answers.items()}
    return {"inputs": reached, "libraries": libraries, "not_run": NOT_RUN, "rows": rows}


def _theirs(name: str, files: dict[str, str], found: Answers, precision: str) -> dict[str, Answer]:
    keys = {one: f"{name}/{stem}/{precision}" for one, stem in files.items()}
    return {
        one: (found.values[f"{key}/value"], found.values.get(f"{key}/gradient"))
        for one, key in keys.items()
        if f"{key}/value" in found.values
    }


def _report(content: dict[str, Any], options: argparse.Namespace) -> int:
    console = machine.console(width_chars=200)
    console.print(table.table(content))
    for what, why in content["not_run"].items():
        console.print(f"not run: {what}: {why}")
    failing = table.num_failing(content)
    console.print(f"{len(content['rows']) - failing} of {len(content['rows'])} rows agree or differ as stated")
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n")
    if options.readme:
        write_block(options.readme, BLOCK, table.markdown(content))
    return 1 if failing else 0


def _check(options: argparse.Namespace) -> list[str]:
    names = _names().split(",")
    only = [name for name in options.only.split(",") if name] or names
    if unknown := [name for name in only if name not in names]:
        raise UserError(f"--only got {','.join(unknown)}, expected names of {_names()}; leave it out for all")
    if options.seed < 0:
        raise UserError(f"--seed got {options.seed}, expected 0 or more; leave it out for 0")
    for option in ("out", "readme"):
        path = getattr(options, option)
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"--{option} got {path}, expected a file in a folder that exists; make {path.parent} first")
    return only


def _names() -> str:
    return ",".join(library.name for library in LIBRARIES)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nouscoder_jax" / "peers"
