"""How many held-out problems a policy solves, with any engine and any judge.

In: problems with their prompts, an Engine, something that judges. Out: EvaluationResult: pass@1, pass@k, outcomes.

All completions are asked for at once, in order (the engine queues them), and each is judged as soon as it is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nouscoder_jax.config import UserError
from nouscoder_jax.data.filters import Filters, parse_dates
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.evaluation.engines import Source, explained, open_engine
from nouscoder_jax.evaluation.score import GIVEN_UP, NOT_JUDGED, Sample, pass_at_k, sample_of
from nouscoder_jax.evaluation.stored import open_log, settings_of
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.extract import Extract, make_extract
from nouscoder_jax.rollout.sampler import cancel, sample_group, sampling_of
from nouscoder_jax.types import EngineError, JudgeError, Outcome, Problem, Prompt, Rollout, Sampling, Verdict
from nouscoder_jax.verifier.judge import Judge, SandboxJudge, make_sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """What became of one problem's samples.

    Example:
        ProblemResult(problem_id="tiny/held_out/0003", family="pair_sum", num_judged=16, num_accepted=5)
    """

    problem_id: str
    family: str
    num_judged: int
    """Samples with a verdict."""
    num_accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """One evaluation. Samples that could not be measured are counted in num_engine_failures and num_judge_failures:
    they are no wrong answers.

    Example:
        EvaluationResult(pass_at_1=0.41, pass_at_k={1: 0.41, 2: 0.52}, solved_by_family={"pair_sum": 0.9}, ...)
    """

    pass_at_1: float
    """Mean over problems of accepted / judged; nan where nothing could be judged."""
    pass_at_k: dict[int, float]
    """k -> mean over problems of the unbiased estimate, for k = 1, 2, 4, ... up to the samples each problem has."""
    solved_by_family: dict[str, float]
    """Family -> mean over its problems of accepted / judged."""
    outcomes: dict[str, int]
    """Outcome -> samples."""
    truncated_share: float
    """Share of samples cut at the length limit."""
    completion_tokens_mean: float
    num_problems: int
    num_samples: int
    """Completions drawn, failures included."""
    num_judge_failures: int
    num_engine_failures: int
    """Completions that the engine gave up; in no length and no share."""
    problems: tuple[ProblemResult, ...]
    samples: tuple[tuple[Rollout, Verdict | None], ...] = field(default=(), repr=False)
    """All completions drawn, in order; None: the judge or the engine failed."""
    measured: tuple[Sample, ...] = field(default=(), repr=False)
    """All samples, in order, those of earlier sessions included."""

    def to_dict(self) -> dict[str, Any]:
        """The result without its samples, as JSON values; what is not a number is null."""
        values = dataclasses.asdict(dataclasses.replace(self, samples=(), measured=()))
        del values["samples"], values["measured"]
        return {name: None if value != value else value for name, value in values.items()}

    def table(self) -> list[str]:
        """The result as lines for people."""
        shares = "  ".join(f"pass@{k} {share:.1%}" for k, share in self.pass_at_k.items())
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.items() if count)
        width = max(map(len, self.solved_by_family), default=0)
        return [
            f"{self.num_problems} problems, {self.num_samples} completions of {self.completion_tokens_mean:.0f} tokens "
            f"({self.truncated_share:.1%} cut), {self.num_judge_failures} not judged, {self.num_engine_failures} given "
            "up by the engine",
            f"outcomes: {outcomes or 'none'}",
            *(f"  {family:<{width}}  {share:6.1%}" for family, share in self.solved_by_family.items()),
            shares or "nothing was judged",
        ]


async def evaluate(
    problems: Sequence[Problem],
    prompts: Mapping[str, Prompt],
    *,
    engine: Engine,
    judge: Judge,
    sampling: Sampling,
    samples_per_problem: int,
    decode: Callable[[Sequence[int]], str],
    extract: Extract,
    on_progress: Callable[[int, int], None],
    kept: Mapping[tuple[str, int], Sample] | None = None,
    on_judged: Callable[[Rollout, Sample], None] = lambda rollout, sample: None,
    published: Callable[[Problem, str | None], Awaitable[Verdict]] | None = None,
) -> EvaluationResult:
    """Draws and judges samples_per_problem completions of every problem that has a prompt.

    `on_progress(done, total)` is called after every sample. The seed of a sample depends on `sampling.seed` and its
    place in `problems` only; groups are counted from -1 down, so that no sample of training has it. Those in `kept`, by
    problem id and sample index, are not drawn again; `on_judged` gets each that was judged. `published`
    judges each once more, as the public harness does. Raises EngineError when the engine fails; however it ends,
    nothing is left running.
    """
    kept = kept or {}
    asked = [problem for problem in problems if problem.problem_id in prompts]
    groups = [
        sample_group(
            engine,
            prompts[problem.problem_id],
            sampling,
            group_id=-1 - index,
            group_size=samples_per_problem,
            decode=decode,
            extract=extract,
            without={index for index in range(samples_per_problem) if (problem.problem_id, index) in kept},
        )
        for index, problem in enumerate(asked)
    ]
    places = [(problem.problem_id, index) for problem in asked for index in range(samples_per_problem)]
    done = sum(place in kept for place in places)
    if done:
        on_progress(done, len(places))

    async def judged(problem: Problem, task: asyncio.Task[Rollout]) -> tuple[Rollout, Verdict | None, Sample]:
        nonlocal done
        rollout = await task
        verdict = second = None
        if not _given_up(rollout):
            with contextlib.suppress(JudgeError):
                verdict = await judge.judge(problem, rollout.program)
                if published is not None:
                    second = await published(problem, rollout.program)
        sample = sample_of(rollout, verdict, second)
        if verdict is not None and (published is None or second is not None):
            on_judged(rollout, sample)
        done += 1
        on_progress(done, len(places))
        return rollout, verdict, sample

    drawn = [(problem, task) for problem, group in zip(asked, groups, strict=True) for task in group]
    judging = [asyncio.create_task(judged(problem, task)) for problem, task in drawn]
    try:
        results = await asyncio.gather(*judging)
    finally:
        for task in judging:
            task.cancel()
        await asyncio.gather(*judging, return_exceptions=True)
        await cancel([task for _, task in drawn])
    known = dict(kept) | {(sample.problem_id, sample.sample_index): sample for _, _, sample in results}
    judged_now = tuple((rollout, verdict) for rollout, verdict, _ in results)
    return dataclasses.replace(_summary(asked, [known[place] for place in places]), samples=judged_now)


def select_problems(path: str, *, released: str, line: Callable[[str], None]) -> list[Problem]:
    """The problems of a file or prepared folder that are of the days FIRST..LAST, both included; empty: all.

    `line` takes how many were left out, and why. Raises UserError: no such days, or no problem of them.
    """
    problems = read_problems(path)
    if not released:
        return problems
    filters = Filters(dates=parse_dates(released))
    reasons = [filters.reason(problem) for problem in problems]
    kept = [problem for problem, reason in zip(problems, reasons, strict=True) if not reason]
    left_out = Counter(filter(None, reasons))
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    if not kept:
        raise UserError(
            f"--released got {released}, of which {path} has no problem ({told}); give days of its problems' dates"
        )
    line(f"{len(kept)} of {len(problems)} problems are of {released}" + (f"; left out: {told}" if told else ""))
    return kept


@runtime_checkable
class ShowProgress(Protocol):
    """Takes how far a stage is."""

    def __call__(self, stage: str, *, done: int, total: int) -> None:
        """Shows it."""
        ...


async def evaluate_model(
    source: Source,
    problems: Sequence[Problem],
    *,
    released: str,
    graders: Sequence[str],
    out: Path | None,
    progress: ShowProgress,
    line: Callable[[str], None],
) -> EvaluationResult:
    """Evaluates a model on the problems with the engine of its source, by its config.

    `released`: the days that the problems were chosen by. `graders`: strict, and livecodebench where both are. `out`: a
    folder in which judged samples are kept as they come, and those of a session before this one are found. `line` takes
    lines for people: what judges, what was left out. Raises UserError, EngineError.
    """
    config, settings = source.config, source.config.evaluation
    prompt_maker = PromptMaker(config.model.path, config.data)
    prompts, left_out = prompt_maker.make_all(problems)
    about = settings_of(
        config, model=source.name, released=released, graders=graders, problems=problems, prompts=prompts
    )
    judge = SandboxJudge(make_sandbox(config.verifier), config.verifier, stop_at_first_failure=True, say=line)
    try:
        line(f"judge: {judge.name}")
        if left_out:
            longest = config.data.max_prompt_tokens
            line(f"{len(left_out)} problems left out: their prompts exceed data.max_prompt_tokens={longest}")
        with open_log(out, about) as log:
            if log.kept:
                line(f"{len(log.kept)} samples are in {out} already and are kept")
            async with open_engine(source, eos_ids=prompt_maker.eos_token_ids, say=line) as engine:
                return await evaluate(
                    problems,
                    prompts,
                    engine=engine,
                    judge=judge,
                    sampling=sampling_of(settings, seed=config.seed),
                    samples_per_problem=settings.samples_per_problem,
                    decode=prompt_maker.decode,
                    extract=make_extract(
                        config.data.extract_rule,
                        decode=prompt_maker.decode,
                        think_token_ids=prompt_maker.think_token_ids,
                    ),
                    on_progress=lambda done, total: progress("evaluate", done=done, total=total),
                    kept=log.kept,
                    on_judged=log.add,
                    published=judge.judge_published if "livecodebench" in graders else None,
                )
    except EngineError as error:
        raise explained(error, source, out=out) from error
    finally:
        await judge.close()


def summarize(problems: Sequence[Problem], results: Sequence[tuple[Rollout, Verdict | None]]) -> EvaluationResult:
    """The result of judged rollouts; a verdict of None is a failure of the engine, where that gave the completion up,
    or of the judge. `problems` may hold more than were drawn."""
    samples = [sample_of(rollout, verdict) for rollout, verdict in results]
    return dataclasses.replace(_summary(problems, samples), samples=tuple(results))


def _summary(problems: Sequence[Problem], samples: Sequence[Sample]) -> EvaluationResult:
    by_problem: dict[str, list[bool]] = {problem.problem_id: [] for problem in problems}
    for sample in samples:
        if sample.is_judged:
            by_problem[sample.problem_id].append(sample.passed)
    per_problem = tuple(
        ProblemResult(
            problem_id=problem.problem_id,
            family=problem.family,
            num_judged=len(passed := by_problem[problem.problem_id]),
            num_accepted=sum(passed),
        )
        for problem in problems
    )
    counted = [result for result in per_problem if result.num_judged > 0]
    largest_k = min((result.num_judged for result in counted), default=0)
    ks = [2**power for power in range(largest_k.bit_length())]
    families = sorted({result.family for result in counted if result.family})
    finished = [sample for sample in samples if sample.outcome != GIVEN_UP]
    outcomes = Counter(sample.outcome for sample in samples)
    return EvaluationResult(
        pass_at_1=_mean_pass_at(counted, 1),
        pass_at_k={k: _mean_pass_at(counted, k) for k in ks},
        solved_by_family={name: _mean_pass_at([r for r in counted if r.family == name], 1) for name in families},
        outcomes={outcome.value: outcomes[outcome.value] for outcome in Outcome},
        truncated_share=_mean([sample.truncated for sample in finished]),
        completion_tokens_mean=_mean([sample.num_tokens for sample in finished]),
        num_problems=len(counted),
        num_samples=len(samples),
        num_judge_failures=outcomes[NOT_JUDGED],
        num_engine_failures=outcomes[GIVEN_UP],
        problems=per_problem,
        measured=tuple(samples),
    )


def _given_up(rollout: Rollout) -> bool:
    return rollout.completion.finish_reason == "abort"


def _mean_pass_at(results: Sequence[ProblemResult], k: int) -> float:
    return _mean([pass_at_k(num_samples=r.num_judged, num_accepted=r.num_accepted, k=k) for r in results])


def _mean(values: Sequence[int | float | bool]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
