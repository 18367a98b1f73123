"""Drawing the groups of a batch: replaced, bounded, overlapped, never blaming a program for the judge."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.loop.collect import Collected, Collector, step_metrics
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.types import Completion, JudgeError, Outcome, Problem, Prompt, Sampling, Verdict


class ScriptedEngine:
    """Answers with the sampling seed's parity as text; the longer, the later."""

    name, policy_version, tokens_generated = "scripted", 5, 0

    def __init__(self):
        self.answered: list[float] = []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        await asyncio.sleep(0.001 * (sampling.seed % 7))
        self.answered.append(asyncio.get_running_loop().time())
        return Completion(
            token_ids=(sampling.seed % 2, 1),
            behavior_logprobs=(-0.5, -0.5),
            logprobs=(-0.5, -0.5),
            finish_reason="stop",
            policy_version=5,
        )

    async def reload(self, export_dir: Path, *, policy_version: int) -> None:
        raise AssertionError("not asked for")

    async def close(self) -> None:
        return None


class ScriptedJudge:
    """Accepts what `accepts` says; fails where `fails` says."""

    name = "scripted"

    def __init__(self, accepts, fails=lambda problem, program: False):
        self.accepts, self.fails = accepts, fails
        self.first_asked: float | None = None

    async def judge(self, problem: Problem, program: str | None) -> Verdict:
        self.first_asked = self.first_asked or asyncio.get_running_loop().time()
        await asyncio.sleep(0.001)
        if self.fails(problem, program):
            raise JudgeError("the engine is gone")
        outcome = Outcome.ACCEPTED if self.accepts(problem, program) else Outcome.WRONG_ANSWER
        return Verdict(outcome=outcome, tests_passed=0, tests_total=8, cpu_s=0.0, peak_memory_mib=0.0, detail="")


@pytest.fixture(scope="module")
def config(root: Path) -> TrainConfig:
    config = cli.load_config_file(root / "configs" / "tiny.py")
    rollout = dataclasses.replace(config.rollout, groups_per_step=4, group_size=4)
    return dataclasses.replace(config, rollout=rollout)


def collect(config: TrainConfig, judge: ScriptedJudge, engine: ScriptedEngine | None = None) -> Collected:
    problems = read_problems(Path(config.data.problems))[:12]

    async def run() -> Collected:
        collector = Collector(
            config,
            engine=engine or ScriptedEngine(),
            judge=judge,
            problems=problems,
            prompts={p.problem_id: Prompt(problem_id=p.problem_id, token_ids=(3,)) for p in problems},
            decode=lambda ids: f"```python\n{ids[0]}\n```",
            stream=problem_stream(len(problems), seed=0, process_index=0, num_processes=1),
            next_group_id=0,
            num_processes=1,
            timer=StageTimer(),
            on_progress=lambda stage, done, total: None,
        )
        return await collector.collect(1)

    return asyncio.run(run())


def by_parity(problem: Problem, program: str | None) -> bool:
    return program is not None and program.strip() == "1"


def test_groups_of_equal_rewards_are_replaced_until_the_batch_is_full(config: TrainConfig):
    easy = {p.problem_id for p in read_problems(Path(config.data.problems))[:6]}
    judge = ScriptedJudge(lambda problem, program: problem.problem_id in easy or by_parity(problem, program))
    collected = collect(config, judge)
    assert len(collected.used) == 4 < len(collected.groups)
    assert all(e.rollout.prompt.problem_id not in easy for g in collected.used for e in g.experiences)


def test_a_policy_that_solves_nothing_draws_up_to_the_bound_and_uses_nothing(config: TrainConfig):
    collected = collect(config, ScriptedJudge(lambda problem, program: False))
    assert len(collected.groups) == 4 * config.experience.max_draws_per_batch
    assert collected.used == () and collected.fates == {"equal": 12}
    assert step_metrics(collected, policy_version=5)["solved_share"] == 0


def test_the_same_seed_draws_the_same_groups_whatever_finishes_first(config: TrainConfig):
    first, second = (collect(config, ScriptedJudge(by_parity)) for _ in range(2))
    assert first.groups == second.groups and first.stream_state == second.stream_state


def test_a_failure_of_the_judge_takes_out_its_rollout_and_is_no_reward(config: TrainConfig):
    judge = ScriptedJudge(by_parity, fails=lambda problem, program: int(problem.problem_id[-1]) % 2 == 0)
    collected = collect(config, judge)
    failed = [e for e in collected.experiences if e.verdict is None]
    assert failed and len(failed) == len(collected.judge_failures)
    assert all(e.reward is None and not e.trainable and e.advantage == 0 for e in failed)


def test_judging_begins_before_the_last_completion_is_written(config: TrainConfig):
    engine, judge = ScriptedEngine(), ScriptedJudge(by_parity)
    collect(config, judge, engine)
    assert judge.first_asked is not None and judge.first_asked < engine.answered[15]


def test_staleness_is_the_policy_version_now_minus_that_of_the_completion(config: TrainConfig):
    collected = collect(config, ScriptedJudge(by_parity))
    assert step_metrics(collected, policy_version=7)["staleness/mean"] == 2
