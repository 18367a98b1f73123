"""A group's completions are handed on as they finish, and nothing depends on when that is."""

import asyncio

import pytest

from nouscoder_jax.rollout import sampler
from nouscoder_jax.rollout.extract import Extracted
from nouscoder_jax.rollout.probe import Drift, Probe
from nouscoder_jax.types import Completion, EngineError, Prompt, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=8, seed=3)
PROMPT = Prompt(problem_id="p", token_ids=(1, 2))


class SlowEngine:
    """Answers request i, counted in order of arrival, after delays[i] seconds; a negative delay fails."""

    name, policy_version = "slow", 0

    def __init__(self, delays):
        self.delays, self.seeds, self.ended = delays, [], []

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

    async def generate(self, prompt, sampling):
        index = len(self.seeds)
        self.seeds.append(sampling.seed)
        try:
            if self.delays[index] < 0:
                raise EngineError("gone")
            await asyncio.sleep(self.delays[index])
        finally:
            self.ended.append(index)
        return Completion(token_ids=(index,), behavior_logprobs=(0.0,), finish_reason="stop", policy_version=0)


def start(engine, *, group_id=5, group_size=3):
    return sampler.sample_group(
        engine,
        PROMPT,
        SAMPLING,
        group_id=group_id,
        group_size=group_size,
        decode=lambda ids: f"text {ids[0]}",
        extract=lambda prompt, completion, text: Extracted(text.upper(), False),
    )


def test_a_rollout_comes_as_soon_as_it_is_finished():
    async def main():
        finished = asyncio.as_completed(start(SlowEngine([0.06, 0.0, 0.03])))
        return [(await rollout).sample_index for rollout in finished]

    assert asyncio.run(main()) == [1, 2, 0]


def test_a_rollout_carries_its_place_text_and_program():
    async def main():
        return await start(SlowEngine([0, 0, 0]))[2]

    rollout = asyncio.run(main())
    assert (rollout.group_id, rollout.sample_index, rollout.prompt) == (5, 2, PROMPT)
    assert (rollout.text, rollout.program) == ("text 2", "TEXT 2")


def test_groups_started_together_reach_the_engine_in_order_and_in_one_turn_of_the_loop():
    async def main():
        engine = SlowEngine([1] * 6)
        tasks = start(engine, group_id=0) + start(engine, group_id=1)
        await asyncio.sleep(0)
        seen = list(engine.seeds)
        await sampler.cancel(tasks)
        return seen

    expected = [sampler.sample_seed(3, group_id=g, sample_index=i) for g in (0, 1) for i in range(3)]
    assert asyncio.run(main()) == expected


def test_a_seed_is_a_pure_function_of_run_seed_group_and_sample():
    assert sampler.sample_seed(0, group_id=1, sample_index=2) == sampler.sample_seed(0, group_id=1, sample_index=2)
    places = [(seed, group, sample) for seed in range(5) for group in range(20) for sample in range(8)]
    seeds = [sampler.sample_seed(seed, group_id=group, sample_index=sample) for seed, group, sample in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_seed_is_the_same_on_every_machine():
    assert sampler.sample_seed(1, group_id=2, sample_index=3) == SEED_1_2_3


SEED_1_2_3 = 1267208813  # written down once; a change breaks the repetition of earlier runs


def test_cancelling_leaves_nothing_running():
    async def main():
        engine = SlowEngine([0.0, 60, 60])
        tasks = start(engine)
        await tasks[0]
        await sampler.cancel(tasks)
        return sorted(engine.ended), len(asyncio.all_tasks())

    assert asyncio.run(main()) == ([0, 1, 2], 1)


def test_cancelling_one_rollout_leaves_the_others():
    async def main():
        tasks = start(SlowEngine([0.01, 0.01, 0.01]))
        await asyncio.sleep(0)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [isinstance(one, asyncio.CancelledError) for one in done]

    assert asyncio.run(main()) == [False, True, False]


def test_an_engine_failure_reaches_the_caller_and_leaves_nothing_running():
    async def main():
        engine = SlowEngine([60, -1, 60])
        tasks = start(engine)
        with pytest.raises(EngineError):
            await asyncio.gather(*tasks)
        await sampler.cancel(tasks)
        return sorted(engine.ended)

    assert asyncio.run(main()) == [0, 1, 2]
