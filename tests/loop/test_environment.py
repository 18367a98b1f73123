"""An environment's end against the real server, with an engine and a judge that follow a script."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import START, ScriptedEngine, ScriptedJudge, by_parity
from small import make_config

from nouscoder_jax.data.pipeline import problem_stream
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.loop import environment as module
from nouscoder_jax.loop.environment import Environment
from nouscoder_jax.loop.groups import Drawer, GroupMaker, NoJournal
from nouscoder_jax.manifest import FILE_NAME
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.rollout.atropos import AtroposServer, GroupRules, read_group
from nouscoder_jax.rollout.extract import Extracted, published_program
from nouscoder_jax.types import EngineError, Prompt

RULES = GroupRules(group_size=2, vocab_size=64, max_tokens=8, temperature=1.0, needs_logprobs=True)
CONFIG = make_config(rollout={"groups_per_step": 4, "group_size": 2, "max_staleness": 1, "outage_limit_s": 0.5})


class World:
    """An environment, and the trainer of the server as a test plays it."""

    def __init__(self, server, folder: Path, judge: ScriptedJudge, *, num_steps: int = 2) -> None:
        self.server, self.judge, self.num_steps = server, judge, num_steps
        self.weights, self.unsent = folder / "weights", folder / "unsent.jsonl"
        self.weights.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.engine = ScriptedEngine(policy_version=0)
        self.stopping = asyncio.Event()

    def train(self) -> None:
        """Becomes the server's trainer."""
        self.server.post(
            "/register",
            {"wandb_group": "", "wandb_project": "", "batch_size": 8, "max_token_len": 9,
             "checkpoint_dir": str(self.weights), "save_checkpoint_interval": 1, "starting_step": 0,
             "num_steps": self.num_steps},
        )  # fmt: skip
        self.server.get("/batch")  # from now on environments may register

    async def batch(self):
        """The next batch, as a trainer asks for it."""
        async with asyncio.timeout(20):
            while not (groups := (await asyncio.to_thread(self.server.get, "/batch"))["batch"]):
                await asyncio.sleep(0.02)
        return groups

    def start(self) -> asyncio.Task[None]:
        problems = read_problems(Path(CONFIG.data.problems))[:48]
        maker = GroupMaker(
            CONFIG,
            engine=self.engine,
            judge=self.judge,
            journal=NoJournal(),
            problems=problems,
            prompts={p.problem_id: Prompt(problem_id=p.problem_id, token_ids=(3, 4)) for p in problems},
            decode=lambda ids: f"```python\n{ids[0]}\n```",
            extract=lambda prompt, completion, text: Extracted(published_program(text), False),
            timer=StageTimer(),
            meter=SlotMeter(),
            on_finished=lambda stage: None,
        )
        server = AtroposServer(self.server.url, outage_limit_s=CONFIG.rollout.outage_limit_s, say=self.said.append)
        self.environment = Environment(
            CONFIG, server, self.engine, maker, Drawer(problem_stream(48, seed=0), START), unsent=self.unsent,
            say=self.said.append,
        )  # fmt: skip

        async def run() -> None:
            try:
                await self.environment.run(self.stopping)
            finally:
                await server.close()

        return asyncio.create_task(run())


def played(server, folder: Path, judge: ScriptedJudge, play: Callable, **how):
    async def run():
        world = World(server, folder, judge, **how)
        running = world.start()
        try:
            return await play(world, running)
        finally:
            world.stopping.set()
            await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(run())


def test_judged_groups_reach_any_trainer(server, tmp_path):
    async def play(world, running):
        await asyncio.sleep(0.2)
        assert world.environment.counts["drawn"] == 0, "nothing is drawn before a trainer asks"
        await asyncio.to_thread(world.train)
        return await world.batch(), world.environment.counts

    groups, counts = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert len(groups) == 4
    for group in groups:
        sequences = read_group(group, RULES)
        assert sorted(one.score for one in sequences) == [-1.0, 1.0], "groups of equal rewards are not pushed"
        assert all((one.token_ids[0] == 1) == (one.score == 1.0) for one in sequences)
    assert counts["drawn"] >= counts["pushed"] + counts["equal"] and counts["pushed"] >= 4


def test_a_failure_of_the_judge_is_not_pushed_and_is_told(server, tmp_path):
    judge = ScriptedJudge(by_parity, fails=lambda problem, program: int(problem.problem_id[-1]) % 2 == 0)

    async def play(world, running):
        await asyncio.to_thread(world.train)
        groups = await world.batch() + await world.batch()
        return groups, world.environment.counts, world.said

    groups, counts, said = played(server, tmp_path, judge, play)
    assert all(sorted(group["scores"]) == [-1.0, 1.0] for group in groups)
    assert counts["judge_failure"] > 0 and any("which is not pushed: the engine is gone" in line for line in said)


def test_no_more_waits_at_the_server_than_the_trainer_takes_in_time(server, tmp_path):
    async def play(world, running):
        await asyncio.to_thread(world.train)
        await asyncio.sleep(1.0)
        return server.get("/status")["queue_size"]

    assert played(server, tmp_path, ScriptedJudge(by_parity), play) <= 4


def test_the_engine_takes_new_weights_of_the_trainer_and_groups_say_so(server, tmp_path):
    def export(world, version: int) -> None:
        folder = world.weights / f"policy-{version:06d}"
        folder.mkdir()
        (folder / FILE_NAME).write_text("{}")

    async def play(world, running):
        export(world, 3)
        (world.weights / "policy-000009").mkdir()  # not finished
        await asyncio.to_thread(world.train)
        first = await world.batch()
        export(world, 4)
        async with asyncio.timeout(20):
            while world.engine.policy_version != 4:
                await asyncio.sleep(0.02)
        return first

    groups = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert {v for group in groups for v in group["generation_params"]["policy_version"]} == {3}


def test_without_weights_of_the_trainer_no_version_is_claimed(server, tmp_path):
    async def play(world, running):
        await asyncio.to_thread(world.train)
        return await world.batch()

    groups = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert all("policy_version" not in group["generation_params"] for group in groups)


def test_servers_without_weights_generate_nothing_and_that_is_said(server, tmp_path):
    async def play(world, running):
        world.engine.policy_version = -1  # as SGLang servers before their first version
        await asyncio.to_thread(world.train)
        await asyncio.sleep(0.5)
        return world.environment.counts["drawn"], world.said

    drawn, said = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert drawn == 0 and sum("no weights of the trainer" in line and "waiting" in line for line in said) == 1


def test_a_server_that_was_started_again_gets_the_environment_back(server, tmp_path):
    async def play(world, running):
        await asyncio.to_thread(world.train)
        await world.batch()
        server.kill()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(world.train)
        return await world.batch(), world.said

    groups, said = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert len(groups) == 4 and sum("a trainer of 2 batches" in line for line in said) == 2


def test_groups_that_could_not_be_pushed_are_kept_and_come_first_later(server, tmp_path):
    async def lose(world, running):
        await asyncio.to_thread(world.train)
        await world.batch()
        pushed = world.environment._push_all

        async def push_nothing() -> None:
            if len(world.environment._to_push) >= 2:
                server.kill()
                await pushed()

        world.environment._push_all = push_nothing
        with pytest.raises(EngineError, match="no Atropos server"):
            await asyncio.wait_for(running, 20)

    played(server, tmp_path, ScriptedJudge(by_parity), lose)
    kept = [json.loads(line) for line in (tmp_path / "unsent.jsonl").read_text().splitlines()]
    assert len(kept) >= 2
    server.start()

    async def again(world, running):
        await asyncio.to_thread(world.train)
        await world.batch()
        return world.said

    said = played(server, tmp_path, ScriptedJudge(by_parity), again)
    assert any(f"pushed {len(kept)} groups" in line for line in said)
    assert not (tmp_path / "unsent.jsonl").exists()


def test_it_leaves_once_the_trainer_has_had_its_batches(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 0.2)

    async def play(world, running):
        await asyncio.to_thread(world.train)
        await world.batch()
        await asyncio.sleep(0.5)
        assert not running.done(), "one batch is missing"
        await world.batch()
        await asyncio.wait_for(running, 20)
        return world.said

    said = played(server, tmp_path, ScriptedJudge(by_parity), play)
    assert "the trainer has had its 2 batches, and asks for no other" in said and said[-1].startswith("groups drawn: ")
