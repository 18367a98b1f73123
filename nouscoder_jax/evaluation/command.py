"""What scripts/evaluate.py does with its options.

In: a config, options. Out: tables on the terminal; JSON, Markdown and a picture where they are asked for; an exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.evaluation.engines import make_source, serving
from nouscoder_jax.evaluation.evaluate import evaluate_model, select_problems
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """What an evaluation takes beside the fields of a config."""
    parser.add_argument(
        "--tokenizer", default="", metavar="DIR", help="of a --model URL (default: the folder that it serves)"
    )
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


def run(config: TrainConfig, options: argparse.Namespace) -> int:
    """Draws, judges, scores and tells. Returns the exit code: 1 where nothing could be judged. Raises UserError."""
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
        source = make_source(config, tokenizer=options.tokenizer, say=display.line)
        with serving(source, say=display.line) as source:
            result = asyncio.run(evaluate_model(source, problems, progress=display.progress, line=display.line))
    samples = samples_of(result.samples)
    report = Report(
        model=source.name,
        problem_file=config.data.held_out,
        released=options.released,
        max_tokens=source.config.evaluation.max_completion_tokens,
        result=result,
        score=score(samples, problems, contexts=contexts),
    )
    print("\n".join([*result.table(), *report.lines()]))
    _write(report, options)
    if options.picture:
        report.draw(options.picture)
    if others is not None:
        paired = compare(problem_means(samples), others, other=str(options.compare))
        report = replace(report, paired=paired, compared_with=str(options.compare))
        print(report.comparison())
        _write(report, options)
    return 1 if math.isnan(result.pass_at_1) else 0


def _write(report: Report, options: argparse.Namespace) -> None:
    """Writes what was asked for; a comparison that is refused afterwards loses nothing."""
    if options.out:
        options.out.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    if options.table:
        options.table.write_text(report.markdown(), encoding="utf-8")
