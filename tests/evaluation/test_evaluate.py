"""Pass@k by hand-worked numbers; a judge failure counts as nothing."""

import asyncio
import json
import math
from pathlib import Path

import pytest

from nouscoder_jax import evaluation
from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.extract import Extracted
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.rollout.sampler import sample_seed
from nouscoder_jax.types import (
    Comparison,
    Completion,
    EngineError,
    JudgeError,
    Outcome,
    Problem,
    Prompt,
    Sampling,
    Verdict,
)

COMPARISON = Comparison(kind="tokens", abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=False, program="")


def problem(problem_id, family=""):
    return Problem(
        problem_id=problem_id,
        statement="",
        tests=(),
        fn_name=None,
        starter_code="",
        prelude="",
        time_limit_s=None,
        memory_limit_mib=None,
        comparison=COMPARISON,
        source="test",
        family=family,
    )


class ScriptedEngine:
    """Answers the i-th request with the token i; every third is cut at the length limit."""

    name, policy_version = "scripted", 0

    def __init__(self, fail_at=None, aborts=()):
        self.requests, self.fail_at, self.aborts = [], fail_at, aborts

    async def generate(self, prompt, sampling):
        index = len(self.requests)
        self.requests.append((prompt.problem_id, sampling.seed))
        if index == self.fail_at:
            raise EngineError("gone")
        if index in self.aborts:
            return Completion(token_ids=(), behavior_logprobs=(), finish_reason="abort", policy_version=0)
        return Completion(
            token_ids=(index,) * (index + 1),
            behavior_logprobs=(0.0,) * (index + 1),
            finish_reason="length" if index % 3 == 2 else "stop",
            policy_version=0,
        )

    async def reload(self, export_dir, *, policy_version):
        raise NotImplementedError

    num_slots = 16

    async def prove(self, probe: Probe) -> Drift:
        return Drift(mean=0.0, largest=0.0)

    async def release_memory(self) -> None:
        return None

    async def resume_memory(self) -> None:
        return None

    async def close(self):
        raise NotImplementedError


class ScriptedJudge:
    """Gives program "i" the i-th letter: a accepted, w wrong answer, n no program, ! judge failure."""

    def __init__(self, letters):
        self.letters = letters

    async def judge(self, problem, program):
        letter = self.letters[int(program)]
        if letter == "!":
            raise JudgeError("no sandbox")
        outcome = {"a": Outcome.ACCEPTED, "w": Outcome.WRONG_ANSWER, "n": Outcome.NO_PROGRAM}[letter]
        return Verdict(outcome=outcome, tests_passed=0, tests_total=1, cpu_s=0.0, peak_memory_mib=0.0, detail="")


def run(letters, *, problems, samples, engine=None, progress=lambda done, total: None):
    prompts = {p.problem_id: Prompt(problem_id=p.problem_id, token_ids=(1,)) for p in problems}
    return asyncio.run(
        evaluation.evaluate(
            problems,
            prompts,
            engine=engine or ScriptedEngine(),
            judge=ScriptedJudge(letters),
            sampling=Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=8, seed=0),
            samples_per_problem=samples,
            decode=lambda ids: str(ids[0]) if ids else "",
            extract=lambda prompt, completion, text: Extracted(text, False),
            on_progress=progress,
        )
    )


TWO = [problem("x", "sums"), problem("y", "words")]


@pytest.mark.parametrize(
    ("samples", "accepted", "k", "expected"),
    [(4, 1, 1, 1 / 4), (4, 1, 2, 1 / 2), (4, 2, 2, 5 / 6), (4, 0, 4, 0.0), (4, 3, 2, 1.0), (1, 1, 1, 1.0)],
)
def test_pass_at_k_is_the_unbiased_estimate(samples, accepted, k, expected):
    assert evaluation.pass_at_k(num_samples=samples, num_accepted=accepted, k=k) == pytest.approx(expected)


def test_pass_at_more_than_the_samples_is_refused():
    with pytest.raises(ValueError, match="got k=5 with 4 samples"):
        evaluation.pass_at_k(num_samples=4, num_accepted=1, k=5)


def test_pass_at_1_is_the_mean_over_problems():
    result = run("aawwwwww", problems=TWO, samples=4)
    assert result.pass_at_1 == 0.25
    assert result.pass_at_k == pytest.approx({1: 0.25, 2: 5 / 12, 4: 0.5})
    assert result.solved_by_family == {"sums": 0.5, "words": 0.0}


def test_outcomes_lengths_and_truncation_are_counted():
    result = run("awnwww", problems=TWO, samples=3)
    assert {name: count for name, count in result.outcomes.items() if count} == {
        "accepted": 1,
        "wrong_answer": 4,
        "no_program": 1,
    }
    assert result.truncated_share == pytest.approx(2 / 6)
    assert result.completion_tokens_mean == pytest.approx(3.5)


def test_a_judge_failure_counts_as_neither_right_nor_wrong():
    result = run("a!!w", problems=TWO, samples=2)
    assert (result.pass_at_1, result.num_judge_failures, result.num_samples) == (0.5, 2, 4)
    assert [p.num_judged for p in result.problems] == [1, 1]
    assert result.pass_at_k == {1: 0.5}


def test_a_problem_that_could_not_be_judged_at_all_is_left_out_of_the_mean():
    result = run("aa!!", problems=TWO, samples=2)
    assert (result.pass_at_1, result.num_problems) == (1.0, 1)


def test_nothing_judged_is_not_a_number():
    assert math.isnan(run("!!!!", problems=TWO, samples=2).pass_at_1)


def test_requests_come_in_order_and_seeds_repeat():
    first, second = ScriptedEngine(), ScriptedEngine()
    run("aaaa", problems=TWO, samples=2, engine=first)
    run("wwww", problems=TWO, samples=2, engine=second)
    assert first.requests == second.requests
    assert [problem_id for problem_id, _ in first.requests] == ["x", "x", "y", "y"]
    assert len({seed for _, seed in first.requests}) == 4


def test_progress_ends_at_the_total():
    seen = []
    run("aaaa", problems=TWO, samples=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_engine_failure_ends_the_evaluation():
    with pytest.raises(EngineError):
        run("aaaa", problems=TWO, samples=2, engine=ScriptedEngine(fail_at=2))


def test_what_the_engine_gave_up_is_neither_right_nor_wrong():
    result = run("a.w.", problems=TWO, samples=2, engine=ScriptedEngine(aborts=(1, 3)))
    assert (result.num_engine_failures, result.num_judge_failures, result.num_samples) == (2, 0, 4)
    assert result.pass_at_1 == 0.5 and [p.num_judged for p in result.problems] == [1, 1]
    assert result.completion_tokens_mean == 2.0 and sum(result.outcomes.values()) == 2
    assert "2 given up by the engine" in result.table()[0]


def test_no_sample_has_a_seed_of_training():
    engine = ScriptedEngine()
    run("a" * 8, problems=TWO, samples=4, engine=engine)
    training = {sample_seed(0, group_id=group, sample_index=sample) for group in range(1000) for sample in range(4)}
    assert len(engine.requests) == 8 and not training & {seed for _, seed in engine.requests}


TINY = Path(__file__).resolve().parents[2] / "configs/tiny/held_out.jsonl"


def dated(path, dates):
    """A problem file with one problem a date."""
    base = json.loads(TINY.read_text().partition("\n")[0])
    lines = [{**base, "id": f"d{index}", **({"date": date} if date else {})} for index, date in enumerate(dates)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


DATES = ["2024-07-31", "2024-08-01", "2025-05-01", "2025-05-02", ""]


def test_both_days_of_released_are_included_and_who_has_no_date_is_counted(tmp_path):
    said = []
    path = dated(tmp_path / "p.jsonl", DATES)
    kept = evaluation.select_problems(path, released="2024-08-01..2025-05-01", line=said.append)
    assert [problem.date for problem in kept] == ["2024-08-01", "2025-05-01"]
    assert said == ["2 of 5 problems are of 2024-08-01..2025-05-01; left out: 1 no date, 2 outside the dates"]


def test_without_released_all_problems_are_kept(tmp_path):
    kept = evaluation.select_problems(dated(tmp_path / "p.jsonl", DATES), released="", line=pytest.fail)
    assert len(kept) == 5


@pytest.mark.parametrize("released", ["2020-01-01..2020-12-31", "2024-08-01", "2025-05-01..2024-08-01"])
def test_days_of_no_problem_and_words_that_are_no_days_are_refused(tmp_path, released):
    with pytest.raises(UserError, match=f"got.*{released}"):
        evaluation.select_problems(dated(tmp_path / "p.jsonl", DATES), released=released, line=lambda text: None)
