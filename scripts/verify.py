"""Judges programs: python scripts/verify.py --problems FILE [--solutions FILE] --out verdicts.jsonl

Without --solutions the labelled solutions in FILE are judged. Exit code 0: every label agrees; 1: a disagreement, or
a program that could not be judged; 2: bad input, or an engine that was gone for half an hour.
Again, as its run did, but for the options given: python scripts/verify.py --rejudge RUN_DIR [--out changed.jsonl]
reports each verdict that changed, and its effect on rewards and advantages. Exit code 0: none; 1: some; 2: as above.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from nouscoder_jax.cli import run_script
from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.loop.rejudge import parse_steps, rejudge
from nouscoder_jax.verifier.labelled import DEFAULTS, changed, judge_file, pair


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def main() -> int:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--problems", help="problem file, .jsonl or .jsonl.gz; needed, but with --rejudge: default the run's")
    add("--solutions", help="file of lines {problem_id, code[, label]}; default: those in --problems")
    add("--rejudge", type=Path, metavar="RUN_DIR", help="judge what this run has kept")
    add("--steps", default="0-", help="with --rejudge: a step, or first-last, such as 3-8, 3- or -8 (default: all)")
    add("--out", type=Path, help="where verdicts go, one line a program; with --rejudge: changed ones")
    add("--all-tests", action="store_true", help="do not stop at the first failed test")
    add = parser.add_argument_group("judge", "with --rejudge, defaults are the run's own").add_argument
    add("--backend", choices=("auto", "docker", "local"), help="default: auto")
    add("--workers", dest="num_workers", type=int, help="programs at the same time, over all engines (default: 2)")
    add("--docker-hosts", nargs="+", help="docker: engines, each like DOCKER_HOST (default: that one)")
    add("--image", help="docker: image with a python3 (default: nouscoder-judge, made here)")
    add("--runtime", help="docker: OCI runtime, such as crun (default: the engine's)")
    add("--rollouts-per-sandbox", type=int, help="programs a container or local runner judges (default: 1)")
    add("--memory-mib", dest="memory_limit_mib", type=int, help="most memory of a program (default: 4096)")
    add("--wall-factor", type=float, help="wall limit as a multiple of the CPU limit (default: 3)")
    options = parser.parse_args()
    settings = {field.name: getattr(options, field.name, None) for field in fields(VerifierConfig)}
    how = {"out": options.out, "stop_at_first_failure": not options.all_tests}
    if options.rejudge:
        return rejudge(options.rejudge, settings, problems=options.problems, steps=parse_steps(options.steps), **how)
    if not options.problems or not options.out:
        parser.error("--problems and --out are needed, or --rejudge RUN_DIR")
    path = options.solutions or options.problems
    pairs = pair(read_problems(options.problems), read_solutions(path), path=path)
    return judge_file(pairs, changed(DEFAULTS, settings), **how)


if __name__ == "__main__":
    run_script(main)
