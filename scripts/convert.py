"""Converts weights between Hugging Face directories and arrays that plain Orbax restores.

    python scripts/convert.py from-hf HF_DIR --out DIR     stacked arrays (DIR/params), tokenizer and config beside them
    python scripts/convert.py to-hf SOURCE --out DIR       back, to the byte; SOURCE may be a training run's folder too

A file or tensor that is not as it should be is named. Exit code 0: converted; 2: bad input, DIR is not there then.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from nouscoder_jax.cli import run_script
from nouscoder_jax.config import UserError
from nouscoder_jax.metrics.status import status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def _step(text: str) -> int | str:
    if text not in ("latest", "best") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}; a number, latest or best was expected")
    return text if text in ("latest", "best") else int(text)


def main() -> None:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("from-hf", help="a Hugging Face directory to stacked arrays")
    one.add_argument("source", type=Path, metavar="HF_DIR", help="config.json, *.safetensors, tokenizer")
    two = commands.add_parser("to-hf", help="stacked arrays, or a run's checkpoint, to a Hugging Face directory")
    two.add_argument("source", type=Path, metavar="SOURCE", help="folder that from-hf has written, or a RUN_DIR")
    two.add_argument("--dtype", choices=("keep", "float32", "bfloat16"), default="keep", help="of the weights")
    two.add_argument("--step", type=_step, default="latest", metavar="N|latest|best", help="RUN_DIR: which checkpoint")
    two.add_argument("--max-shard-gb", type=float, metavar="GB", help="of a file (default: as it was; RUN_DIR: 5)")
    for command in (one, two):
        command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, new or empty")
    options = parser.parse_args()
    from nouscoder_jax.training import convert  # only now, so that --help does not wait for jax

    with status("reading headers") as say:
        if options.command == "from-hf":
            done = convert.from_hf(options.source, options.out, say=say)
        else:
            chosen = {"dtype": options.dtype, "step": options.step, "max_shard_gb": options.max_shard_gb}
            done = convert.to_hf(options.source, options.out, **chosen, say=say)
    rate = f"{done.num_bytes / 1e9:.2f} GB, {done.num_tensors} tensors, {done.seconds:.1f} s"
    print(f"wrote {options.out} from {done.what} ({rate})")


if __name__ == "__main__":
    run_script(main)
