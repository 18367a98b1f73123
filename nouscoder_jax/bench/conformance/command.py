"""Our objectives beside six libraries' own functions: `python scripts/bench.py conformance`.

In: options. Out: for every objective and library value, gradient and their largest difference on the same random
inputs, as a table, a JSON file and a block of the README where asked for.

Every library runs in a process of its own on inputs in files. TRL and tunix are in the environment that `bench.py
update` uses as well. The others are laid beside it, each in a folder of its own and without its dependencies (they want
CUDA servers and clusters), so that versions never clash; what their modules import beside the loss is small and
installed, or a placeholder that the loss never touches. rows.py says what is compared and how definitions differ,
compare.py what "agrees" means.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.conformance import compare, inputs, ours, table
from nouscoder_jax.bench.conformance.compare import Answer
from nouscoder_jax.bench.conformance.rows import NOT_RUN, ROWS
from nouscoder_jax.bench.options import add_outputs, at_least, some_of
from nouscoder_jax.bench.peers import peers_python
from nouscoder_jax.bench.readme import write_block
from nouscoder_jax.bench.worker import Worker, WorkerError, environment

BLOCK = "conformance"
"""Name of the README's block."""
LIBRARIES = {
    "verl": "verl==0.9.1", "trl": "", "openrlhf": "openrlhf==0.11.2", "skyrl": "skyrl==0.3.0", "areal": "areal==1.0.4",
    "tunix": "",
}  # fmt: skip
"""What pip installs beside the environment; empty: the environment has it."""
_LIGHT = ("orjson==3.13.0", "colorlog==6.12.0", "loguru==0.7.3")
"""Small packages that the libraries import and the environment lacks."""
_NUM_SEEDS = 3


@dataclass(kw_only=True)
class Answers:
    """What one library answered.

    Example:
        Answers(failure="pip could not install verl==0.9.1")
    """

    values: dict[str, dict[tuple[str, str], Answer]] = field(default_factory=dict)
    """Precision -> name and input -> value and, where it has one, gradient."""
    failures: dict[str, str] = field(default_factory=dict)
    """Name -> what the function raised."""
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    """Why there are none at all; empty: there are."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py conformance`."""
    told = "environment of the libraries, the same as of `update`; made if new (default: in the cache folder)"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nouscoder_jax" / "peers"
    parser.add_argument("--peers-env", default=cache, type=Path, metavar="DIR", help=told)
    parser.add_argument("--seed", default=0, type=at_least(0), help=f"first of {_NUM_SEEDS} seeds (default: 0)")
    told = f"of {','.join(LIBRARIES)} (default: all)"
    parser.add_argument("--only", default=list(LIBRARIES), type=some_of(list(LIBRARIES)), metavar="NAMES", help=told)
    add_outputs(parser, block=BLOCK)


def run(options: argparse.Namespace) -> int:
    """Compares and reports. Returns 0, or 1 where a row that should agree does not or could not run. Raises
    UserError."""
    facts = machine.describe(("jax", "numpy"))
    peers_python(options.peers_env)
    cases = inputs.make(seed=options.seed, num_seeds=_NUM_SEEDS)
    with tempfile.TemporaryDirectory(prefix="bench-conformance-") as folder:
        inputs.write(cases, Path(folder))
        answers = {name: ask(name, options.peers_env, Path(folder)) for name in options.only}
    return finish(judge(cases, answers), facts, options)


def finish(content: dict[str, Any], facts: dict[str, Any], options: argparse.Namespace) -> int:
    """Reports; the exit code."""
    table.report(content, facts).finish(options)
    if options.readme:
        write_block(options.readme, BLOCK, table.markdown(content))
    return 1 if table.num_failing(content) else 0


def judge(cases: dict[str, dict[str, np.ndarray]], answers: dict[str, Answers]) -> dict[str, Any]:
    """Every row of the libraries that were asked, and what their processes told."""

    @functools.cache
    def computed(name: str, one: str) -> Answer:
        return ours.compute(name, cases[one])

    rows = []
    for row in ROWS:
        if row.library not in answers:
            continue
        found, kept = answers[row.library], row._asdict()
        theirs = {
            precision: {one: answer for (name, one), answer in values.items() if name == row.objective}
            for precision, values in found.values.items()
        }
        if failure := found.failure or found.failures.get(row.objective, ""):
            kept |= {"verdict": "failed", "failure": failure}
        else:
            kept |= compare.figures(row, computed, theirs["float32"])
            if theirs.get("float64"):
                kept["float64"] = compare.figures(row, computed, theirs["float64"])
        rows.append(kept)
    libraries = {name: found.facts | {"failures": found.failures} for name, found in answers.items()}
    return {"inputs": list(cases), "libraries": libraries, "not_run": NOT_RUN, "rows": rows}


def ask(name: str, folder: Path, place: Path) -> Answers:
    """The library's answers for every input in `place`; it is laid beside the environment in `folder` where it is not
    there yet."""
    print(f"asking {name}", file=sys.stderr)
    found, light, home = Answers(), folder / "conformance" / "light", folder / "conformance" / name
    python = str(folder / "bin" / "python")
    variables = environment(1, home, light) | {"TORCHDYNAMO_DISABLE": "1"}  # compiled, the same comes minutes later
    try:
        _install(python, _LIGHT, light)
        if LIBRARIES[name]:
            _install(python, (LIBRARIES[name],), home)
        command = [python, "-m", f"nouscoder_jax.bench.conformance.libraries.{name}"]
        with Worker(name, command, place, variables) as worker:
            found.facts = worker.wait_ready()
            for precision in found.facts.pop("precisions"):
                values = found.values.setdefault(precision, {})
                for path in sorted(place.glob("*.npz")):
                    for objective, answer in worker.ask("answer", inputs=path.name, precision=precision).items():
                        if "failure" in answer:
                            found.failures[objective] = answer["failure"]
                        else:
                            gradient = answer["gradient"]
                            values[objective, path.stem] = (
                                np.asarray(answer["value"]), None if gradient is None else np.asarray(gradient)
                            )  # fmt: skip
    except (WorkerError, subprocess.CalledProcessError) as error:
        return Answers(failure=str(error))
    return found


def _install(python: str, requirements: tuple[str, ...], home: Path) -> None:
    done = home / "installed.txt"
    if not done.exists() or done.read_text() != "\n".join(requirements):
        print(f"installing {' '.join(requirements)} into {home}", file=sys.stderr)
        command = [python, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(home), *requirements]
        subprocess.run(command, stdout=sys.stderr, check=True)
        done.write_text("\n".join(requirements))
