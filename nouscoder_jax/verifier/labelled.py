"""Judges labelled programs and says where the judge and the labels disagree: what scripts/verify.py does.

In: a problem file, perhaps a file of solutions. Out: a line of JSON for each program, and a `Summary`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import JudgeError, Outcome, Problem, Solution, Verdict
from nouscoder_jax.verifier.judge import Judge, SandboxJudge, make_sandbox

LABELS = ("accepted", "wrong_answer", "time_limit", "memory_limit", "output_limit", "runtime_error", "rejected")


@dataclass(kw_only=True)
class Summary:
    """What came of a file of programs."""

    programs: int = 0
    agreeing: int = 0
    labelled: int = 0
    judge_errors: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)
    """One line for people for each program whose verdict is not its label's."""

    def describe(self) -> str:
        """One line: how many agree, how many do not, what the outcomes were."""
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        text = f"{self.programs} programs: {outcomes}"
        if self.labelled:
            text = f"{self.agreeing} of {self.labelled} labels agree; {text}"
        return text

    @property
    def exit_code(self) -> int:
        """0: every label agrees and everything was judged; else 1."""
        return 1 if self.disagreements or self.judge_errors else 0


def changed(config: VerifierConfig, settings: Mapping[str, Any]) -> VerifierConfig:
    """The config with other values for those fields whose setting is not None. Raises UserError."""
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if v is not None}
    try:
        return replace(config, **given)
    except ValueError as error:
        raise UserError(str(error)) from error


def agrees(label: str | None, outcome: Outcome) -> bool | None:
    """Whether a verdict is what the label says, as accepted or not. None: there is no label."""
    return None if label is None else (label == "accepted") == (outcome is Outcome.ACCEPTED)


def pair(problems: list[Problem], solutions: list[Solution], *, path: str) -> list[tuple[Problem, Solution]]:
    """Each solution with its problem. Raises UserError on an unknown problem or label; `path` is for its message."""
    by_id = {problem.problem_id: problem for problem in problems}
    for solution in solutions:
        where = f"{path}: solution {solution.solution_index} of {solution.problem_id!r}"
        if solution.problem_id not in by_id:
            raise UserError(f"{where} names a problem that the problem file does not have")
        if solution.label is not None and solution.label not in LABELS:
            raise UserError(f"{where} has the label {solution.label!r}, expected one of {', '.join(LABELS)}")
    return [(by_id[solution.problem_id], solution) for solution in solutions]


def judge_file(
    pairs: list[tuple[Problem, Solution]], config: VerifierConfig, *, out: Path, stop_at_first_failure: bool
) -> int:
    """Judges all pairs with progress on the terminal, prints disagreements and a summary. Returns the exit code."""
    console = Console(soft_wrap=True, highlight=False, markup=False)

    async def run() -> Summary:
        judge = SandboxJudge(
            make_sandbox(config), config, stop_at_first_failure=stop_at_first_failure, say=console.print
        )
        console.print(judge.name)
        try:
            with progress_bar(console) as progress:
                task = progress.add_task("judging", total=len(pairs))
                return await judge_all(pairs, judge, out=out, on_verdict=lambda: progress.advance(task))
        finally:
            await judge.close()

    summary = asyncio.run(run())
    for line in summary.disagreements:
        console.print(line)
    console.print(summary.describe())
    return summary.exit_code


def progress_bar(console: Console) -> Progress:
    """A bar with counts and times; nothing where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


async def judge_all(
    pairs: list[tuple[Problem, Solution]], judge: Judge, *, out: Path, on_verdict: Callable[[], None]
) -> Summary:
    """Judges every pair, writes one line each to `out` as it is known, in the order of the pairs."""
    summary = Summary()
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; choose another --out") from error
    with file:
        pending = [asyncio.ensure_future(_judge_one(judge, problem, solution)) for problem, solution in pairs]
        try:
            for (problem, solution), future in zip(pairs, pending, strict=True):
                _record(await future, problem, solution, summary, file)
                on_verdict()
        finally:
            for future in pending:
                future.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
    return summary


async def _judge_one(judge: Judge, problem: Problem, solution: Solution) -> Verdict | JudgeError:
    try:
        return await judge.judge(problem, solution.code)
    except JudgeError as error:
        return error


def _record(result: Verdict | JudgeError, problem: Problem, solution: Solution, summary: Summary, file: TextIO) -> None:
    line: dict[str, Any] = {
        "problem_id": problem.problem_id,
        "solution_index": solution.solution_index,
        "label": solution.label,
    }
    summary.programs += 1
    if isinstance(result, JudgeError):
        summary.judge_errors += 1
        summary.outcomes["judge_error"] += 1
        line |= {"outcome": "judge_error", "agrees": None, "tests_passed": 0, "tests_total": len(problem.tests)}
        line |= {"cpu_s": 0.0, "peak_memory_mib": 0.0, "detail": str(result)}
    else:
        verdict = agrees(solution.label, result.outcome)
        line |= {"outcome": result.outcome.value, "agrees": verdict, "tests_passed": result.tests_passed}
        line |= {"tests_total": result.tests_total, "cpu_s": round(result.cpu_s, 6)}
        line |= {"peak_memory_mib": round(result.peak_memory_mib, 2), "detail": result.detail}
        summary.outcomes[result.outcome.value] += 1
        summary.labelled += verdict is not None
        summary.agreeing += bool(verdict)
        if verdict is False:
            why = f" ({result.detail})" if result.detail else ""
            summary.disagreements.append(
                f"{problem.problem_id} solution {solution.solution_index}: label {solution.label}, "
                f"verdict {result.outcome.value}{why}"
            )
    file.write(json.dumps(line) + "\n")
    file.flush()
