"""What scripts/evaluate.py does with its options.

In: a config, options. Out: tables on the terminal; JSON, Markdown and a picture where they are asked for; an exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.evaluation.engines import make_source, serving
from nouscoder_jax.evaluation.evaluate import evaluate_model, select_problems
from nouscoder_jax.evaluation.report import Report, comparison, read_samples
from nouscoder_jax.evaluation.score import (
    check_same_problems,
    compare,
    estimate,
    parse_contexts,
    problem_means,
    score,
)
from nouscoder_jax.evaluation.stored import RESULT, write_whole
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
    parser.add_argument(
        "--graders",
        default="strict",
        metavar="NAME,...",
        help="strict (a real process a test), or strict,livecodebench: also as the public harness judges",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="keep every sample as it comes and write result.json; the same command goes on after a stop",
    )
    parser.add_argument("--table", metavar="FILE", type=Path, help="write Markdown, beside the published numbers")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="write a PNG: pass@1 and intervals, by part")
    parser.add_argument(
        "--compare",
        metavar="FOLDER",
        nargs="+",
        type=Path,
        help="an earlier --out on the same problems: difference, paired test; two of them: nothing is drawn",
    )


def run(config: TrainConfig, options: argparse.Namespace) -> int:
    """Draws, judges, scores and tells. Returns the exit code: 1 where nothing could be judged. Raises UserError."""
    if options.compare and len(options.compare) > 1:
        return _compare_stored(options.compare)
    if (graders := tuple(options.graders.split(","))) not in (("strict",), ("strict", "livecodebench")):
        raise UserError(f"--graders got {options.graders!r}; expected strict or strict,livecodebench")
    if options.out and (not options.out.parent.is_dir() or options.out.is_file()):
        raise UserError(f"--out got {options.out}; expected a folder in one that exists: name a new folder")
    for name, path in (("--table", options.table), ("--picture", options.picture)):
        if path and (not path.parent.is_dir() or path.is_dir()):
            raise UserError(f"{name} got {path}; expected a file in a folder that exists: make the folder first")
    max_tokens = config.evaluation.max_completion_tokens
    contexts = parse_contexts(options.contexts, max_tokens=max_tokens) if options.contexts else ()
    other = options.compare[0] if options.compare else None
    others = problem_means(read_samples(other)) if other else None
    with Display(num_steps=1, stream=None) as display:
        problems = select_problems(config.data.held_out, released=options.released, line=display.line)
        ids = {problem.problem_id for problem in problems}
        if others is not None and others.keys() - ids:  # before hours of drawing
            check_same_problems(ids, others, other=str(other))
        source = make_source(config, tokenizer=options.tokenizer, say=display.line)
        with serving(source, say=display.line) as source:
            result = asyncio.run(
                evaluate_model(
                    source,
                    problems,
                    released=options.released,
                    graders=graders,
                    out=options.out,
                    progress=display.progress,
                    line=display.line,
                )
            )
    samples = [sample for sample in result.measured if sample.is_judged]
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
        paired = compare(problem_means(samples), others, other=str(other))
        report = replace(report, paired=paired, compared_with=str(other))
        print(report.comparison())
        _write(report, options)
    return 1 if math.isnan(result.pass_at_1) else 0


def _compare_stored(folders: Sequence[Path]) -> int:
    """Two evaluations that are done: the first against the second."""
    if len(folders) > 2:
        raise UserError(f"--compare got {len(folders)} folders; give one or two")
    first, second = (read_samples(folder) for folder in folders)
    paired = compare(problem_means(first), problem_means(second), other=str(folders[1]))
    for folder, samples in zip(folders, (first, second), strict=True):
        print(f"{folder}: pass@1 {estimate(list(problem_means(samples).values()))}")
    print(comparison(paired, f"{folders[0]} against {folders[1]}"))
    return 0


def _write(report: Report, options: argparse.Namespace) -> None:
    """Writes what was asked for; a comparison that is refused afterwards loses nothing."""
    if options.out:
        write_whole(options.out / RESULT, json.dumps(report.to_dict(), indent=2) + "\n")
    if options.table:
        options.table.write_text(report.markdown(), encoding="utf-8")
