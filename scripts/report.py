"""Makes a page of runs to look at: python scripts/report.py RUN_DIR [RUN_DIR ...] --out report.html

The page is one file that loads nothing: curves with what they mean, where every rollout went, and the rollouts
themselves with prompt, completion, program, verdict and the first failing test. Several runs are drawn over each other;
NAME=RUN_DIR gives one another name than its folder's.
While a run goes on: python scripts/report.py RUN_DIR --serve shows the same page on http://127.0.0.1:8321 and follows
it.
Exit code 0: written, or served until Ctrl-C; 2: bad input, such as a folder that holds no run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from nouscoder_jax.cli import run_script
from nouscoder_jax.config import UserError
from nouscoder_jax.report.command import run


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def main() -> int:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run_dirs", nargs="+", metavar="RUN_DIR", help="folder that a run has written or writes; NAME=RUN_DIR names it")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="file to write (default: report.html)")
    add("--replace", action="store_true", help="write over a file that exists")
    add(
        "--text-chars",
        type=int,
        default=20_000,
        metavar="N",
        help="of a longer text of a rollout keep the beginning and the end, N characters; 0: all (default: 20000)",
    )
    add("--serve", action="store_true", help="serve the page, and follow the runs, instead of writing it")
    add("--host", default="127.0.0.1", help="with --serve: address to listen at; another one shows it to others")
    add("--port", type=int, default=8321, help="with --serve: port; 0: any that is free (default: 8321)")
    return run(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
