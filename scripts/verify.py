"""Judges programs: python scripts/verify.py --problems FILE [--solutions FILE] --out verdicts.jsonl

Without --solutions the labelled solutions in FILE are judged. Exit code 0: every label agrees; 1: a disagreement, or
a program that could not be judged; 2: bad input.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.verifier.labels import judge_all, pair
from nouscoder_jax.verifier.pool import Judge, make_sandbox


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", required=True, help="problem file, .jsonl or .jsonl.gz")
    parser.add_argument("--solutions", help="file of lines {problem_id, code[, label]}; default: those in --problems")
    parser.add_argument("--out", required=True, type=Path, help="where verdicts go, one line a program")
    parser.add_argument("--backend", default="auto", choices=("auto", "docker", "local"))
    parser.add_argument("--workers", default=2, type=int, help="programs judged at the same time")
    parser.add_argument("--memory-mib", default=4096, type=int, help="most memory of a program")
    parser.add_argument("--rollouts-per-container", default=1, type=int, help="docker: programs a container judges")
    parser.add_argument("--all-tests", action="store_true", help="do not stop at the first failed test")
    options = parser.parse_args()
    try:
        config = VerifierConfig(
            backend=options.backend, image="nouscoder-judge", runtime="", num_workers=options.workers,
            rollouts_per_container=options.rollouts_per_container, default_time_limit_s=15.0, wall_factor=3.0,
            memory_limit_mib=options.memory_mib, output_limit_mib=8, max_processes=64, max_retries=2,
        )  # fmt: skip
        solutions_path = options.solutions or options.problems
        pairs = pair(read_problems(options.problems), read_solutions(solutions_path), path=solutions_path)
        return asyncio.run(run(pairs, config, options))
    except (UserError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


async def run(pairs: list, config: VerifierConfig, options: argparse.Namespace) -> int:
    console = Console(soft_wrap=True, highlight=False)
    judge = Judge(make_sandbox(config), config, stop_at_first_failure=not options.all_tests)
    console.print(judge.name, markup=False)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("judging", total=len(pairs))
            summary = await judge_all(pairs, judge, out=options.out, on_verdict=lambda: progress.advance(task))
    finally:
        await judge.close()
    for line in summary.disagreements:
        console.print(line, markup=False)
    console.print(summary.describe(), markup=False)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
