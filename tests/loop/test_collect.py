"""Drawing the groups of a batch: replaced, bounded, overlapped, never blaming a program for the judge."""

import dataclasses
from pathlib import Path

import pytest
from scripted import ScriptedEngine, ScriptedJudge, by_parity, scripted_collector
from small import make_config

from nouscoder_jax.bench.pipeline.virtual_clock import run_virtually
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.collect import check_versions, step_metrics, told
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.types import EngineError, Outcome, Verdict


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return make_config(rollout={"groups_per_step": 4, "group_size": 4})


def collect(config: TrainConfig, judge: ScriptedJudge, engines: list[ScriptedEngine] | None = None) -> Collected:
    async def run() -> Collected:
        engine = ScriptedEngine()
        if engines is not None:
            engines.append(engine)
        return await scripted_collector(config, engine, judge).take(1)

    return run_virtually(run())


def test_groups_of_equal_rewards_are_replaced_until_the_batch_is_full(config: TrainConfig):
    easy = {p.problem_id for p in read_problems(Path(config.data.problems))[:6]}
    judge = ScriptedJudge(lambda problem, program: problem.problem_id in easy or by_parity(problem, program))
    collected = collect(config, judge)
    assert len(collected.used) == 4 < len(collected.groups)
    assert all(e.rollout.prompt.problem_id not in easy for g in collected.used for e in g.experiences)


def test_a_policy_that_solves_nothing_draws_up_to_the_bound_and_uses_nothing(config: TrainConfig):
    collected = collect(config, ScriptedJudge(lambda problem, program: False))
    assert len(collected.groups) == 4 * config.experience.max_draws_per_batch
    assert collected.used == () and told(collected.groups) == "12 equal"
    metrics = step_metrics(collected, policy_version=5)
    assert metrics["solved_share"] == 0 and metrics["groups/equal_share"] == 1 and metrics["groups/stale_share"] == 0


def test_shares_of_outcomes_are_of_the_judged_rollouts(config: TrainConfig):
    """Of 16 judged: 12 wrong and 4 without a program; the group that was not judged counts nowhere but as dropped."""
    collected = collect(config, ScriptedJudge(lambda problem, program: False))
    wrong, without, unjudged = collected.groups[:3], collected.groups[3], collected.groups[4]
    none = Verdict(outcome=Outcome.NO_PROGRAM, tests_passed=0, tests_total=0, cpu_s=0.0, peak_memory_mib=0.0, detail="")
    without = dataclasses.replace(
        without, experiences=tuple(dataclasses.replace(e, verdict=none) for e in without.experiences)
    )
    unjudged = dataclasses.replace(
        unjudged,
        drop_reason=DropReason.JUDGE_FAILURE,
        experiences=tuple(dataclasses.replace(e, verdict=None, reward=None) for e in unjudged.experiences),
    )
    groups = (*wrong, without, unjudged)
    metrics = step_metrics(dataclasses.replace(collected, groups=groups), policy_version=5)
    shares = {name: share for name, share in metrics.items() if name.startswith("outcomes/") and share}
    assert shares == {"outcomes/wrong_answer_share": 0.75, "outcomes/no_program_share": 0.25}
    assert (metrics["groups/equal_share"], metrics["groups/judge_failure_share"]) == (0.8, 0.2)


def test_the_same_seed_draws_the_same_groups_whatever_finishes_first(config: TrainConfig):
    first, second = (collect(config, ScriptedJudge(by_parity)) for _ in range(2))
    assert first.groups == second.groups and first.position == second.position


def test_a_failure_of_the_judge_takes_out_its_rollout_and_is_no_reward(config: TrainConfig):
    judge = ScriptedJudge(by_parity, fails=lambda problem, program: int(problem.problem_id[-1]) % 2 == 0)
    collected = collect(config, judge)
    failed = [e for e in collected.experiences if e.verdict is None]
    assert failed and len(failed) == len(collected.judge_failures)
    assert all(e.reward is None and not e.trainable and e.advantage == 0 for e in failed)


def test_judging_begins_before_the_last_completion_is_written(config: TrainConfig):
    engines, judge = [], ScriptedJudge(by_parity)
    collect(config, judge, engines)
    assert judge.first_asked is not None and judge.first_asked < engines[0].answered[15]


def test_tokens_of_a_version_that_was_not_exported_are_refused_by_name(config: TrainConfig):
    collected = collect(config, ScriptedJudge(by_parity))
    check_versions(collected, newest=5)
    with pytest.raises(EngineError, match=r"group 0, sample 0 .* version 5; this run has exported versions 0 to 4"):
        check_versions(collected, newest=4)


def test_ages_are_told_in_batches_and_in_versions(config: TrainConfig):
    collected = collect(config, ScriptedJudge(by_parity))
    groups = tuple(dataclasses.replace(group, started_after=collected.step - 4) for group in collected.groups)
    metrics = step_metrics(dataclasses.replace(collected, groups=groups), policy_version=7)
    assert metrics["staleness/versions_mean"] == metrics["staleness/versions_max"] == 2
    assert metrics["staleness/batches_mean"] == metrics["staleness/batches_max"] == 3
    assert not any(
        name.startswith("staleness")
        for name in step_metrics(dataclasses.replace(collected, groups=()), policy_version=7)
    )
