"""Generation ahead of training, on a virtual clock: who waits for whom, how old a batch may be, what a resume draws."""

import asyncio
from pathlib import Path

import pytest
import small
from scripted import START, ScriptedEngine, ScriptedJudge, by_parity, chance, scripted_collector

from nouscoder_jax.bench.pipeline.virtual_clock import now_s, run_virtually
from nouscoder_jax.config import TrainConfig
from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.collect import step_metrics
from nouscoder_jax.loop.pipeline import run_steps
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics.timer import SlotMeter
from nouscoder_jax.types import EngineError

UPDATES = 2


def make_config(*, max_staleness: int, num_steps: int = 16) -> TrainConfig:
    rollout = {"groups_per_step": 4, "group_size": 4, "max_staleness": max_staleness}
    return small.make_config(rollout=rollout, num_steps=num_steps)


def long_tailed(sampling) -> float:
    """Seconds of a completion: most are short, one in ten takes 15 times as long."""
    return 20.0 if sampling.seed % 10 == 0 else 1.0 + chance(sampling.seed)


class Run:
    """A run of the pipeline on a virtual clock, with an update that takes `update_s`."""

    def __init__(self, config, *, seconds=long_tailed, update_s=4.0, num_slots=24, judge=None, position=START, first=0):
        self.batches, self.ages, self.oldest, self.trained_at = [], [], [], []
        self.config, self.seconds, self.update_s, self.num_slots = config, seconds, update_s, num_slots
        self.judge = judge or ScriptedJudge(by_parity, seconds=2.0)
        self.position, self.first = position, first
        self.at_step = lambda step: None

    def go(self):
        run_virtually(self._main())
        return self

    async def _main(self):
        self.stopping = asyncio.Event()
        self.engine = ScriptedEngine(
            num_slots=self.num_slots, seconds=self.seconds, policy_version=self.first * UPDATES
        )
        self.meter = SlotMeter(clock=now_s)
        self.meter.num_slots = self.num_slots
        collector = scripted_collector(
            self.config, self.engine, self.judge, position=self.position, first_step=self.first, meter=self.meter
        )
        await run_steps(
            collector, self._train, first_step=self.first, num_steps=self.config.num_steps, stopping=self.stopping
        )
        self.seconds_total, self.idle_share = now_s(), self.meter.take()
        self.left = asyncio.all_tasks() - {asyncio.current_task()}

    async def _train(self, collected):
        version = self.engine.policy_version
        self.batches.append(collected)
        versions = [version - e.rollout.completion.policy_version for g in collected.used for e in g.experiences]
        assert all(age % UPDATES == 0 for age in versions)
        self.ages += [age // UPDATES for age in versions]
        measured = step_metrics(collected, policy_version=version)
        if collected.used:
            self.oldest.append(measured["staleness/batches_max"])
        self.at_step(collected.step)
        await asyncio.sleep(self.update_s)
        await self.engine.reload(Path("."), policy_version=version + UPDATES)
        self.trained_at.append(now_s())


def test_without_staleness_every_token_is_of_the_weights_that_train_on_it():
    run = Run(make_config(max_staleness=0)).go()
    assert set(run.ages) == {0} and len(run.batches) == 16


@pytest.mark.parametrize("max_staleness", [1, 2, 3, 5])
def test_no_group_is_more_batches_old_than_the_bound_whatever_finishes_first_and_every_bound_is_used(max_staleness):
    run = Run(make_config(max_staleness=max_staleness)).go()
    assert max(run.ages) == max(run.oldest) == max_staleness and len(run.batches) == 16


def test_a_group_that_is_too_old_when_its_turn_comes_is_dropped_and_counted():
    async def main():
        config = make_config(max_staleness=1)
        collector = scripted_collector(config, ScriptedEngine(), ScriptedJudge(by_parity))
        first = await collector.take(1)
        while not collector._ready:
            await asyncio.sleep(0.01)
        late = next(iter(collector._ready))
        collector._deadlines[late] = 0
        second = await collector.take(2)
        await collector.close()
        return first, second, late

    first, second, late = run_virtually(main())
    (group,) = (group for group in second.groups if group.draw == late)
    assert group.drop_reason is DropReason.STALE and not any(e.trainable for e in group.experiences)
    assert late not in {group.draw for group in second.used} and len(second.used) == 4
    progress = Progress()
    for collected in (first, second):
        progress.count(collected, group_size=4)
    assert progress.rollouts["filtered/stale"] == 4


def test_generation_goes_on_during_updates_and_verdicts():
    runs = (Run(make_config(max_staleness=bound, num_steps=40), num_slots=8).go() for bound in (4, 0))
    ahead, synchronous = runs
    assert ahead.seconds_total < 0.4 * synchronous.seconds_total
    assert ahead.idle_share < 0.1 < 0.5 < synchronous.idle_share


def test_a_slow_judge_does_not_stop_generation_and_a_slow_trainer_does_only_at_the_bound():
    run = Run(make_config(max_staleness=1), seconds=lambda sampling: 1.0, update_s=1000.0, num_slots=4).go()
    # one batch is trained, one may wait for it: no third one is drawn meanwhile
    drawn = [batch.position.next_group_id for batch in run.batches]
    assert all(batch.num_in_flight <= 2 * 4 * 4 for batch in run.batches)
    assert drawn[0] <= 3 * 4 * 2


def test_no_rollout_is_lost_or_handed_over_twice():
    run = Run(make_config(max_staleness=2)).go()
    handed = [group.group_id for batch in run.batches for group in batch.groups]
    pending = [draw.group_id for draw in run.batches[-1].position.pending]
    assert len(handed) == len(set(handed)) and not set(handed) & set(pending)
    assert sorted(handed + pending) == list(range(run.batches[-1].position.next_group_id))
    assert run.left == set()


def test_long_completions_are_trained_on_as_often_as_short_ones():
    run = Run(make_config(max_staleness=4, num_steps=40)).go()
    drawn = {seed for seed in run.engine.asked}
    trained = [e.rollout.completion for batch in run.batches for group in batch.groups for e in group.experiences]
    assert len(trained) >= 0.95 * len(drawn), "what was drawn was handed over, however long it took"


def test_a_resumed_run_draws_what_was_under_way_again_and_nothing_else():
    config = make_config(max_staleness=4, num_steps=12)
    first = Run(config)
    first.at_step = lambda step: first.stopping.set() if step == 5 else None
    first.go()
    assert len(first.batches) == 5
    position = first.batches[-1].position
    assert position.pending, "something was under way"
    second = Run(config, position=position, first=5).go()
    handed = [group.group_id for batch in first.batches + second.batches for group in batch.groups]
    left = [draw.group_id for draw in second.batches[-1].position.pending]
    assert sorted(handed + left) == list(range(second.batches[-1].position.next_group_id))
    again = {
        group.group_id: group.experiences[0].rollout.prompt.problem_id for b in second.batches for group in b.groups
    }
    assert all(draw.group_id in again for draw in position.pending)


def test_a_run_resumed_with_fewer_slots_keeps_what_it_has_not_drawn_again_yet():
    config = make_config(max_staleness=8, num_steps=12)
    first = Run(config, num_slots=96)
    first.at_step = lambda step: first.stopping.set() if step == 5 else None
    position = first.go().batches[-1].position
    second = Run(config, position=position, first=5, num_slots=4).go()
    for batch in second.batches:
        assert len(batch.position.pending) * config.rollout.group_size == batch.num_in_flight
    handed = [group.group_id for batch in first.batches + second.batches for group in batch.groups]
    assert sorted(handed) == list(range(second.batches[-1].position.next_group_id))


def test_stopping_ends_after_the_update_that_has_begun():
    run = Run(make_config(max_staleness=4))
    run.at_step = lambda step: run.stopping.set() if step == 3 else None
    run.go()
    assert len(run.batches) == len(run.trained_at) == 3 and run.left == set()


def test_a_failing_engine_ends_the_run_with_its_error_and_leaves_nothing_under_way():
    run = Run(make_config(max_staleness=4))

    def fail(step):
        if step == 4:
            run.engine.failure = EngineError("all servers are gone")

    run.at_step = fail
    with pytest.raises(EngineError, match="all servers are gone"):
        run.go()
    assert len(run.trained_at) >= 4


def test_equal_groups_are_replaced_up_to_the_bound_of_draws():
    run = Run(make_config(max_staleness=4), judge=ScriptedJudge(lambda problem, program: False)).go()
    assert all(batch.used == () and len(batch.groups) >= 12 for batch in run.batches)


def test_the_same_script_gives_the_same_run():
    first, second = (Run(make_config(max_staleness=4)).go() for _ in range(2))
    assert first.batches == second.batches and first.trained_at == second.trained_at
