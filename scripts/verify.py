"""Judges programs: python scripts/verify.py --problems FILE [--solutions FILE] --out verdicts.jsonl

Without --solutions the labelled solutions in FILE are judged. Sandbox and limits are the section `verifier` of the
config; without --config those of configs/dapo.py, two programs at a time, and in local sandboxes where no Docker host
answers. Short for fields of that section: --backend, --workers, --docker-hosts, --image, --runtime, --memory-mib,
--rollouts-per-sandbox, --wall-factor. Exit code 0: every label agrees; 1: a disagreement, or a program that could not
be judged; 2: bad input, or no Docker host for half an hour.
Again, as its run did, but for the options given: python scripts/verify.py --rejudge RUN_DIR [--out changed.jsonl]
reports each verdict that changed, and its effect on rewards and advantages. Exit code 0: none; 1: some; 2: as above.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.data.explain import explain
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.loop.rejudge import parse_steps, rejudge
from nouscoder_jax.verifier.labelled import judge_file, pair

SHORT = {"--workers": "--verifier.num-workers", "--memory-mib": "--verifier.memory-limit-mib"} | {
    **{f"--{name}": f"--verifier.{name}" for name in ("backend", "docker-hosts", "image", "runtime")},
    **{f"--{name}": f"--verifier.{name}" for name in ("rollouts-per-sandbox", "wall-factor")},
}
DAPO = Path(__file__).resolve().parents[1] / "configs/dapo.py"
ON_ONE_MACHINE = ["--verifier.backend=auto", "--verifier.num-workers=2"]
"""What the default config is changed in: it asks for Docker and 100 programs at a time."""


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config=str(DAPO))
    add = parser.add_argument
    add("--problems", metavar="FILE", help=".jsonl or .jsonl.gz; needed, but with --rejudge: default the run's")
    add("--solutions", metavar="FILE", help="lines {problem_id, code[, label]}; default: those in --problems")
    add("--rejudge", type=Path, metavar="RUN_DIR", help="judge what this run has kept, by its own config")
    add("--steps", default="0-", help="with --rejudge: a step, or first-last, such as 3-8, 3- or -8 (default: all)")
    add("--out", type=Path, metavar="FILE", help="where verdicts go, one a line; with --rejudge: changed ones")
    add("--explain", metavar="ID", help="print how this problem of --problems is judged, and end")
    add("--all-tests", action="store_true", help="do not stop at the first failed test")
    parts = [argument.partition("=") for argument in sys.argv[1:]]
    defaults = [] if {"--config", "--rejudge"} & {name for name, _, _ in parts} else ON_ONE_MACHINE
    given = [SHORT.get(name, name) + equals + value for name, equals, value in parts]
    config, options = cli.load(parser, [*defaults, *given], run_option="rejudge")
    how = {"out": options.out, "stop_at_first_failure": not options.all_tests}
    if options.rejudge:
        steps = parse_steps(options.steps)
        return rejudge(options.rejudge, vars(config.verifier), problems=options.problems, steps=steps, **how)
    if options.problems and options.explain:
        return print("\n".join(explain(read_problems(options.problems), options.explain))) or 0
    if not options.problems or not options.out:
        parser.error("--problems and --out are needed, or --rejudge RUN_DIR")
    path = options.solutions or options.problems
    return judge_file(pair(read_problems(options.problems), read_solutions(path), path=path), config.verifier, **how)


if __name__ == "__main__":
    cli.run_script(main)
