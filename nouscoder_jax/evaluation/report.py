"""What an evaluation leaves: JSON from which runs compare later, a Markdown table beside published numbers, a picture.

In: EvaluationResult, Score, Paired. Out: files. The JSON has every judged sample; `read_samples` reads them back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation.evaluate import EvaluationResult
from nouscoder_jax.evaluation.score import Estimate, Paired, Sample, Score, estimate, problem_means
from nouscoder_jax.evaluation.stored import RESULT

PUBLISHED = (
    ("Qwen3-14B, the base", "81,920", "60.79"),
    ("NousCoder, DAPO", "81,920", "67.87"),
    ("NousCoder, GSPO", "81,920", "66.26"),
    ("NousCoder, GSPO+", "81,920", "66.52"),
    ("NousCoder, each objective", "40,960", "about 63"),
)
"""Model, context in tokens, Pass@1 in percent, on the 454 problems of LiveCodeBench v6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation and what it was of.

    Example:
        Report(model="my-policy", problem_file="held_out.jsonl", released="2024-08-01..2025-05-01", max_tokens=81920,
               result=EvaluationResult(...), score=Score(...), paired=None, compared_with="")
    """

    model: str
    problem_file: str
    released: str
    """Days of the problems; empty: all."""
    max_tokens: int
    """At which a completion was cut."""
    result: EvaluationResult
    score: Score
    paired: Paired | None = None
    compared_with: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, each problem with its judged samples; what is not a number is null."""
        samples: dict[str, list[dict[str, Any]]] = {}
        for sample in filter(lambda sample: sample.is_judged, self.result.measured):
            values = {"passed": sample.passed, "tokens": sample.num_tokens, "truncated": sample.truncated}
            samples.setdefault(sample.problem_id, []).append({**values, "outcome": sample.outcome})
        values = self.result.to_dict()
        problems = [{**problem, "samples": samples.get(problem["problem_id"], [])} for problem in values["problems"]]
        about = {
            "model": self.model,
            "problem_file": self.problem_file,
            "released": self.released,
            "max_completion_tokens": self.max_tokens,
        }
        if published := self.published():
            about["livecodebench"] = {"pass_at_1": asdict(published), "differ": self.differ()}
        paired = {"compared_with": self.compared_with, **asdict(self.paired)} if self.paired else None
        return _plain({**about, **values, "score": asdict(self.score), "paired": paired, "problems": problems})

    def published(self) -> Estimate | None:
        """Pass@1 as LiveCodeBench's public harness judges; None where it was not asked."""
        asked = [sample for sample in self.result.measured if sample.published_outcome]
        passed = [replace(sample, passed=sample.published_outcome == "accepted") for sample in asked]
        return estimate(list(problem_means(passed).values())) if passed else None

    def differ(self) -> list[dict[str, Any]]:
        """The programs that one grader accepts and the other does not, with what both say."""
        return [
            {
                "problem_id": sample.problem_id,
                "sample_index": sample.sample_index,
                "strict": f"{sample.outcome} {sample.detail}".strip(),
                "livecodebench": f"{sample.published_outcome} {sample.published_detail}".strip(),
            }
            for sample in self.result.measured
            if sample.published_outcome
            and sample.is_judged
            and sample.passed != (sample.published_outcome == "accepted")
        ]

    def lines(self) -> list[str]:
        """Numbers for people, after those of EvaluationResult.table()."""
        lines = [f"pass@1 {self.score.pass_at_1}"]
        for part, rows in self.score.parts().items():
            width = max(map(len, rows))
            lines += [f"pass@1 by {part}", *(f"  {name:<{width}}  {value}" for name, value in rows.items())]
        if published := self.published():
            lines.append(f"pass@1 {published} as the public harness of LiveCodeBench judges")
            lines += [
                f"  {one['problem_id']} sample {one['sample_index']}: strict {one['strict']}; "
                f"livecodebench {one['livecodebench']}"
                for one in self.differ()
            ]
        return lines + ([self.comparison()] if self.paired else [])

    def comparison(self) -> str:
        """The paired test in one line."""
        assert self.paired is not None
        return comparison(self.paired, f"against {self.compared_with}")

    def markdown(self) -> str:
        """The run beside the published numbers, then its parts."""
        result, days = self.result, f", {self.released}" if self.released else ""
        rows = [
            f"| {self.model}, this run | {self.score.pass_at_1.num_problems} of {self.problem_file}{days} | "
            f"{self.max_tokens:,} | {_cells(self.score.pass_at_1)} |",
            *(f"| {model} | 454 of LiveCodeBench v6 | {length} | {share} | |" for model, length, share in PUBLISHED),
        ]
        shares = ", ".join(f"pass@{k} {100 * share:.2f}" for k, share in result.pass_at_k.items())
        outcomes = ", ".join(f"{name} {count}" for name, count in result.outcomes.items() if count)
        text = [
            *_table("model | problems | tokens | Pass@1, % | 95 % interval", rows),
            "",
            "The rows without an interval are published ones; how long completions of the base's 60.79 might be is not "
            "stated. They are of another model, problem set and grader unless these are the same here: only then do "
            "rows compare. Tokens of this run are those of completions, without prompts.",
            "",
            f"This run: {result.num_samples} completions of {result.completion_tokens_mean:.0f} tokens in the mean, "
            f"{result.truncated_share:.1%} cut; {shares or 'nothing was judged'}. Verdicts: {outcomes or 'none'}; not "
            f"judged {result.num_judge_failures}, given up by the engine {result.num_engine_failures}. Intervals are "
            "of a bootstrap over problems.",
        ]
        for part, estimates in self.score.parts().items():
            rows = [f"| {name} | {row.num_problems} | {_cells(row)} |" for name, row in estimates.items()]
            text += ["", *_table(f"{part} | problems | Pass@1, % | 95 % interval", rows)]
        if self.score.by_context:
            text += ["", "A completion of more tokens than its row says counts as failed in it."]
        return "\n".join(text + (["", f"Paired, {self.comparison()}."] if self.paired else [])) + "\n"

    def draw(self, path: Path) -> None:
        """Writes the picture, a PNG: Pass@1 with its interval, a panel a part."""
        import matplotlib  # here, not above: importing it takes a second

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.ticker import PercentFormatter

        panels = self.score.parts() or {"problems": {"all": self.score.pass_at_1}}
        sizes = [max(len(rows), 2) for rows in panels.values()]
        figure, grid = pyplot.subplots(
            1,
            len(panels),
            figsize=(max(6.0, 1.5 + 0.8 * sum(sizes)), 4.5),
            dpi=150,
            layout="constrained",
            sharey=True,
            squeeze=False,
            width_ratios=sizes,
        )
        try:
            for axes, (part, rows) in zip(grid.flat, panels.items(), strict=True):
                means = [row.mean for row in rows.values()]
                below = [row.mean - row.low for row in rows.values()]
                above = [row.high - row.mean for row in rows.values()]
                names = [f"{name}\n({row.num_problems})" for name, row in rows.items()]
                axes.errorbar(range(len(rows)), means, yerr=[below, above], fmt="o", color="#0b6e4f", capsize=4)
                axes.axhline(self.score.pass_at_1.mean, color="0.7", linewidth=1, linestyle="--")
                axes.set_xticks(range(len(rows)), names, rotation=45 if len(rows) > 6 else 0)
                axes.set(xlabel=part, ylim=(-0.02, 1.02), xlim=(-0.6, len(rows) - 0.4))
                axes.grid(axis="y", color="0.92")
                axes.set_axisbelow(True)
                axes.spines[["top", "right"]].set_visible(False)
            first = grid.flat[0]
            first.set_ylabel("pass@1, 95 % interval (problems)")
            first.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            whole = self.score.pass_at_1
            figure.suptitle(f"{Path(self.model).name}: {whole}; dashed: all problems", fontsize=10)
            figure.savefig(path)
        finally:
            pyplot.close(figure)


def comparison(paired: Paired, who: str) -> str:
    """A paired test in one line."""
    gap = paired.difference
    return (
        f"{who}: {100 * gap.mean:+.1f} points (95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}, "
        f"{gap.num_problems} problems, {paired.num_better} better, {paired.num_worse} worse), "
        f"p = {paired.p_value:.4g} by signs flipped at random, two-sided"
    )


def read_samples(path: Path) -> list[Sample]:
    """The judged samples of a folder, or a result.json, that evaluate.py has written. Raises UserError."""
    try:
        path = path / RESULT if path.is_dir() else path
        problems = json.loads(path.read_text(encoding="utf-8"))["problems"]
        samples = [
            Sample(
                problem_id=str(problem["problem_id"]),
                passed=bool(sample["passed"]),
                num_tokens=int(sample["tokens"]),
                truncated=bool(sample["truncated"]),
                outcome=str(sample["outcome"]),
            )
            for problem in problems
            for sample in problem["samples"]
        ]
    except OSError as error:
        raise UserError(f"--compare got {path}, which cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"--compare got {path}, which has no samples of an evaluation ({type(error).__name__}: {error}); give a "
            "folder that evaluate.py --out has written"
        ) from error
    if not samples:
        raise UserError(f"--compare got {path}, in which nothing was judged; give an evaluation with judged samples")
    return samples


def _cells(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.2f} | {100 * estimate.low:.2f} to {100 * estimate.high:.2f}"


def _table(heads: str, rows: Sequence[str]) -> list[str]:
    return [f"| {heads} |", "|" + "---|" * (heads.count("|") + 1), *rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value
