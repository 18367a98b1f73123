"""Pass@k of a Hugging Face directory, with the embedded engine.

    python scripts/evaluate.py --model DIR --problems FILE --samples 16 --max-tokens 128 [--out FILE]
    python scripts/evaluate.py --model DIR --problems FILE --max-tokens 81920 --contexts 40960,81920 \\
        --released 2024-08-01..2025-05-01 --out new.json --table new.md --picture new.png --compare old.json

--model, --problems, --samples and --max-tokens are short for the config fields model.path, data.held-out,
evaluation.samples-per-problem and evaluation.max-completion-tokens; prompts, sampling and sandbox are the config's.
Pass@1 is the mean over samples, then over problems, with a 95 % bootstrap interval over problems; it is also given by
difficulty, platform and month where the problems say them.
Exit code 0: evaluated; 1: the engine or the judge failed; 2: bad input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import evaluate_directory, select_problems
from nouscoder_jax.evaluation.report import Report, read_samples
from nouscoder_jax.evaluation.score import (
    check_same_problems,
    compare,
    parse_contexts,
    problem_means,
    samples_of,
    score,
)
from nouscoder_jax.metrics.display import Display

SHORT = {
    "--model": "--model.path",
    "--problems": "--data.held-out",
    "--samples": "--evaluation.samples-per-problem",
    "--max-tokens": "--evaluation.max-completion-tokens",
}
TINY = Path(__file__).resolve().parents[1] / "configs/tiny.py"


def make_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__ or "", default_config=str(TINY))
    parser.add_argument("--released", default="", metavar="FIRST..LAST", help="only problems of these days, inclusive")
    parser.add_argument(
        "--contexts",
        default="",
        metavar="TOKENS,...",
        help="Pass@1 when completions of more tokens count as failed, a row each; prompts are not counted",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the result as JSON, with every sample")
    parser.add_argument("--table", metavar="FILE", type=Path, help="write Markdown, beside the published numbers")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="write a PNG: pass@1 and intervals, by part")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, help="an earlier --out on the same problems: difference, paired test"
    )
    return parser


def main() -> int:
    parts = (argument.partition("=") for argument in sys.argv[1:])
    config, options = cli.load(make_parser(), [SHORT.get(name, name) + equals + value for name, equals, value in parts])
    for name, path in (("--out", options.out), ("--table", options.table), ("--picture", options.picture)):
        if path and (not path.parent.is_dir() or path.is_dir()):
            raise UserError(f"{name} got {path}; expected a file in a folder that exists: make the folder first")
    max_tokens = config.evaluation.max_completion_tokens
    contexts = parse_contexts(options.contexts, max_tokens=max_tokens) if options.contexts else ()
    others = problem_means(read_samples(options.compare)) if options.compare else None
    with Display(num_steps=1, stream=None) as display:
        problems = select_problems(config.data.held_out, released=options.released, line=display.line)
        ids = {problem.problem_id for problem in problems}
        if others is not None and others.keys() - ids:  # before hours of drawing
            check_same_problems(ids, others, other=str(options.compare))
        result = asyncio.run(evaluate_directory(config, problems, progress=display.progress, line=display.line))
    samples = samples_of(result.samples)
    report = Report(
        model=config.model.path,
        problem_file=config.data.held_out,
        released=options.released,
        max_tokens=max_tokens,
        result=result,
        score=score(samples, problems, contexts=contexts),
    )
    print("\n".join([*result.table(), *report.lines()]))
    write(report, options)
    if options.picture:
        report.draw(options.picture)
    if others is not None:
        paired = compare(problem_means(samples), others, other=str(options.compare))
        report = replace(report, paired=paired, compared_with=str(options.compare))
        print(report.comparison())
        write(report, options)
    return 1 if math.isnan(result.pass_at_1) else 0


def write(report: Report, options: argparse.Namespace) -> None:
    """Writes what was asked for; a comparison that is refused afterwards loses nothing."""
    if options.out:
        options.out.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    if options.table:
        options.table.write_text(report.markdown(), encoding="utf-8")


if __name__ == "__main__":
    cli.run_script(main)
