"""Measures parts of the system: python scripts/bench.py judge [--out FILE] [--plot FILE]

Each part is a subcommand with options of its own (--help). Exit code 0: measured, whatever came out; 2: bad input.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from nouscoder_jax.cli import run_script

BENCHES = {
    "judge": ("nouscoder_jax.bench.judge", "the judge beside unsafe ways to run programs: tests/s, latency, CPU"),
}
"""Subcommand -> module with `add_options` and `run`, and what it measures. Only the chosen one is imported."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, (module, what) in BENCHES.items():
        command = commands.add_parser(name, help=what, description=what)
        if name in sys.argv[1:2]:
            importlib.import_module(module).add_options(command)
    options = parser.parse_args()
    return importlib.import_module(BENCHES[options.bench][0]).run(options)


if __name__ == "__main__":
    run_script(main)
