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
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, chosen
from nouscoder_jax.bench.readme import write_block
from nouscoder_jax.bench.update.peers import peers_python

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
    parser.add_argument("--only", default="", metavar="NAMES", help=f"of {','.join(_names())} (default: all)")
    add_outputs(parser, block=BLOCK)


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
                Answers(failure=failure) if failure else environment.ask(library, folder, Path(place))
            )
    content = {**facts, "seed": options.seed, "tolerance": compare.TOLERANCE}
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
        failure = found.failure or found.failures.get(f"{row.objective}/float32", "")
        judged = compare.compare(row, computed, _theirs(row.objective, files, found, "float32"), failure=failure)
        double = _theirs(row.objective, files, found, "float64")
        rows.append(judged | ({"float64": compare.figures(row, computed, double)} if double else {}))
    reached = {name: inputs.reached(arrays) for name, arrays in cases.items()}
    libraries = {name: found.facts | {"failures": found.failures} for name, found in answers.items()}
    return {"inputs": reached, "libraries": libraries, "not_run": NOT_RUN, "rows": rows}


def _theirs(name: str, files: dict[str, str], found: Answers, precision: str) -> dict[str, Answer]:
    keys = {one: (name, stem, precision) for one, stem in files.items()}
    return {one: found.values[key] for one, key in keys.items() if key in found.values}


def _report(content: dict[str, Any], options: argparse.Namespace) -> int:
    failing = table.num_failing(content)
    found = table.report(content)
    found.show(machine.console(width_chars=200))
    found.write(options.out)
    if options.readme:
        write_block(options.readme, BLOCK, table.markdown(content))
    return 1 if failing else 0


def _check(options: argparse.Namespace) -> list[str]:
    check_numbers(options, "seed", at_least=0)
    check_outputs(options, block=BLOCK)
    return chosen("only", options.only, _names())


def _names() -> list[str]:
    return [library.name for library in LIBRARIES]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nouscoder_jax" / "peers"
