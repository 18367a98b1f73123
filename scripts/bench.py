"""Measures parts of the system: python scripts/bench.py PART [--out FILE], PART one of

    attention conformance convert export generate judge logprobs objectives pipeline update

Each part is a subcommand with options of its own (--help). Exit code 0: measured, whatever came out; 2: bad input.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from nouscoder_jax.cli import run_script

BENCHES = {
    "attention": ("kernels.attention", "attention forward + backward: Pallas beside cuDNN, TFLOP/s"),
    "conformance": ("conformance.command", "the objectives beside six libraries' own: value and gradient"),
    "convert": ("weights.convert", "Hugging Face files to ours and back beside cp: GB/s, memory"),
    "export": ("weights.export", "new weights to the disk beside cp of the same bytes: GB/s"),
    "generate": ("generate.command", "the embedded engine beside transformers and SGLang: tokens/s"),
    "judge": ("judge.command", "the judge beside unsafe ways to run programs: tests/s, latency, CPU"),
    "logprobs": ("kernels.logprobs", "logprobs in chunks beside all logits at once: time, memory"),
    "objectives": ("objectives", "every objective trains the tiny policy: held-out pass@1"),
    "pipeline": ("pipeline.command", "who waits for whom, simulated: idle shares, what binds on a fleet"),
    "update": ("update.command", "update beside TRL's and google-tunix's: real tokens/s"),
}
"""Subcommand -> module of nouscoder_jax.bench with `add_options` and `run`, and what it measures. Only the chosen
one is imported."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="bench", required=True)
    for name, (module, what) in BENCHES.items():
        command = commands.add_parser(name, help=what, description=what)
        if name in sys.argv[1:2]:
            importlib.import_module(f"nouscoder_jax.bench.{module}").add_options(command)
    options = parser.parse_args()
    return importlib.import_module(f"nouscoder_jax.bench.{BENCHES[options.bench][0]}").run(options)


if __name__ == "__main__":
    run_script(main)
