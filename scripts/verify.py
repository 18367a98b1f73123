"""Judges programs: python scripts/verify.py --problems FILE [--solutions FILE] --out verdicts.jsonl

Without --solutions the labelled solutions in FILE are judged. Exit code 0: every label agrees; 1: a disagreement, or
a program that could not be judged; 2: bad input, or an engine that was gone for half an hour.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from nouscoder_jax.cli import run_script
from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.verifier.labels import judge_file, pair


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def main() -> int:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--problems", required=True, help="problem file, .jsonl or .jsonl.gz")
    add("--solutions", help="file of lines {problem_id, code[, label]}; default: those in --problems")
    add("--out", required=True, type=Path, help="where verdicts go, one line a program")
    add("--backend", default="auto", choices=("auto", "docker", "local"))
    add("--workers", default=2, type=int, help="programs judged at the same time, over all engines (default: 2)")
    add("--docker-hosts", nargs="+", default=[], help="docker: engines, each like DOCKER_HOST (default: that one)")
    add("--image", default="nouscoder-judge", help="docker: image with a python3 (default: made here)")
    add("--runtime", default="", help="docker: OCI runtime, such as crun (default: the engine's)")
    add("--rollouts-per-sandbox", default=1, type=int, help="programs a container or local runner judges (default: 1)")
    add("--memory-mib", default=4096, type=int, help="most memory of a program (default: 4096)")
    add("--wall-factor", default=3.0, type=float, help="wall limit as a multiple of the CPU limit (default: 3)")
    add("--all-tests", action="store_true", help="do not stop at the first failed test")
    options = parser.parse_args()
    try:
        config = VerifierConfig(
            backend=options.backend, docker_hosts=tuple(options.docker_hosts), image=options.image,
            runtime=options.runtime, num_workers=options.workers, rollouts_per_sandbox=options.rollouts_per_sandbox,
            wall_factor=options.wall_factor, memory_limit_mib=options.memory_mib,
            default_time_limit_s=15.0, output_limit_mib=8, max_processes=64, max_retries=2, outage_limit_s=1800.0,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    path = options.solutions or options.problems
    pairs = pair(read_problems(options.problems), read_solutions(path), path=path)
    return judge_file(pairs, config, out=options.out, stop_at_first_failure=not options.all_tests)


if __name__ == "__main__":
    run_script(main)
