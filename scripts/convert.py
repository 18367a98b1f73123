"""Writes the policy of a run's newest checkpoint as a Hugging Face directory.

python scripts/convert.py --checkpoint RUN_DIR --out DIR [--dtype float32|bfloat16]
"""

import argparse
from pathlib import Path

from nouscoder_jax.cli import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="RUN_DIR", help="folder of a training run")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the weights")
    options = parser.parse_args()
    from nouscoder_jax.training.export import convert_run  # only now, so that --help does not wait for jax

    step = convert_run(options.checkpoint, options.out, dtype=options.dtype)
    print(f"wrote {options.out} ({options.dtype}) from step {step} of {options.checkpoint}")


if __name__ == "__main__":
    run_script(main)
