"""A trainer's end against the real server: batches, crashes of either side, groups that are wrong."""

import asyncio
import json
from pathlib import Path

import pytest
from small import make_config

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.groups import Collected, Position
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.pulled import PullCollector, PulledGroups
from nouscoder_jax.loop.replay import ReplayingCollector
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.atropos import MalformedGroupError
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import EngineError

START = Position(next_group_id=0, stream_state=None, pending=())


class Run:
    """The trainer's end of a run in `folder`; made again, it is a resumed session."""

    def __init__(self, server, folder: Path, *, position=START, version=0, config: TrainConfig | None = None) -> None:
        self.server, self.said, self.version = server, [], version
        self.config = config or config_of(server)
        self.folder = RunFolder(path=folder)
        self.journal = Journal(folder / "journal", config_hash="a", say=self.said.append)
        self.journal.settle(position)
        source = PulledGroups(
            self.config,
            self.folder,
            self.journal,
            decode=lambda ids: " ".join(map(str, ids)),
            vocab_size=512,
            policy_version=lambda: self.version,
            timer=StageTimer(),
            say=self.said.append,
        )

        def begin(following: Position, first_step: int) -> PullCollector:
            return PullCollector(
                source, self.journal, following, config=self.config, first_step=first_step,
                on_progress=lambda stage, done, total: None,
            )  # fmt: skip

        self.collector = ReplayingCollector(self.journal, source, begin, position=position)

    async def take(self, step: int) -> Collected:
        return await asyncio.wait_for(self.collector.take(step), 30)


def config_of(server, **changes) -> TrainConfig:
    rollout = {
        "source": "atropos", "source_url": server.url, "groups_per_step": 2, "group_size": 2, "max_staleness": 1,
        "outage_limit_s": 20.0,
    }  # fmt: skip
    return make_config(rollout=rollout | changes)


def group(number: int, *, scores=(1.0, -1.0), **changes):
    tokens = [[3, 10 + number, 9], [3, 20 + number, 8]]
    return {
        "tokens": tokens,
        "masks": [[-100, *row[1:]] for row in tokens],
        "scores": list(scores),
        "inference_logprobs": [[1.0, -0.5, -0.5]] * 2,
    } | changes


def first_tokens(collected: Collected) -> set[int]:
    return {group.experiences[0].rollout.completion.token_ids[0] - 10 for group in collected.used}


def push(server, *groups) -> None:
    for one in groups:
        server.post("/scored_data", one)


async def trained(server) -> None:
    """Waits until a trainer has registered."""
    await until(server, "/info", lambda info: info["batch_size"] >= 0)


async def until(server, path: str, holds) -> None:
    async with asyncio.timeout(20):
        while not holds(await asyncio.to_thread(server.get, path)):
            await asyncio.sleep(0.02)


async def one_by_one(server, *batches) -> None:
    """Pushes each batch once the one before it is handed over: the newest that wait go first."""
    await trained(server)
    for batch in batches:
        await until(server, "/status", lambda status: status["queue_size"] == 0)
        push(server, *batch)


def test_a_batch_of_the_server_is_a_batch_of_the_run(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await trained(server)
        push(server, group(0), group(1))
        collected = await taking
        await session.collector.close()
        return collected

    collected = asyncio.run(run())
    assert first_tokens(collected) == {0, 1} and collected.num_in_flight == 0
    experiences = list(collected.experiences)
    assert [e.reward for e in experiences] == [1.0, -1.0] * 2 and all(e.verdict is None for e in experiences)
    assert all(e.trainable for e in experiences)
    progress = Progress()
    progress.count(collected, group_size=2)  # raises where the law of conservation is broken
    assert progress.rollouts["drawn"] == progress.rollouts["trained"] == 4


def test_groups_of_equal_scores_are_dropped_and_others_are_pulled(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await one_by_one(server, [group(0, scores=(1.0, 1.0)), group(1)], [group(2), group(3)])
        collected = await taking
        await session.collector.close()
        return collected

    collected = asyncio.run(run())
    assert 1 in first_tokens(collected) and len(collected.used) == 2
    assert [g.drop_reason for g in collected.groups if g.drop_reason] == [DropReason.EQUAL]
    assert collected.num_in_flight == 2 and collected.position.next_group_id == 4


def test_a_completion_whose_advantage_is_set_to_zero_does_not_train_and_its_score_counts(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await trained(server)
        push(server, group(0, overrides=[{}, {"set_advantage_to_zero": True}]), group(1))
        collected = await taking
        await session.collector.close()
        return collected

    by_token = {g.experiences[0].rollout.completion.token_ids[0]: g for g in asyncio.run(run()).used}
    assert [e.trainable for e in by_token[10].experiences] == [True, False]
    assert [e.reward for e in by_token[10].experiences] == [1.0, -1.0]  # else the group would be of one reward


def test_a_killed_run_finds_all_that_the_server_had_handed_over(server, tmp_path):
    """The server forgets a batch once it is asked for; the kill comes before either is trained on."""

    async def first():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await one_by_one(server, [group(0), group(1, scores=(1.0, 1.0))], [group(2), group(3)])
        collected = await taking
        await session.collector.close()
        return collected

    async def again():
        session = Run(server, tmp_path)  # no checkpoint: from the beginning
        collected = await session.take(1)
        await session.collector.close()
        return collected

    before = asyncio.run(first())
    assert server.get("/status")["queue_size"] == 0
    after = asyncio.run(again())
    assert [(g.draw, [e.rollout for e in g.experiences]) for g in after.groups] == [
        (g.draw, [e.rollout for e in g.experiences]) for g in before.groups
    ]
    assert (after.position, after.num_in_flight, after.waiting) == (
        before.position, before.num_in_flight, before.waiting,
    )  # fmt: skip


def test_groups_that_wait_for_their_batch_survive_a_checkpoint_and_a_kill(server, tmp_path):
    async def first():
        session = Run(server, tmp_path, config=config_of(server))
        taking = asyncio.create_task(session.take(1))
        await one_by_one(server, [group(0, scores=(0.0, 0.0)), group(1)], [group(2), group(3)])
        collected = await taking
        await session.collector.close()
        session.journal.prune(1)  # a checkpoint holds step 1
        return collected

    before = asyncio.run(first())
    assert before.num_in_flight == 2, "one group waits"
    position = before.position

    async def again():
        session = Run(server, tmp_path, position=position)
        taking = asyncio.create_task(session.take(2))
        await trained(server)
        push(server, group(5), group(6))
        collected = await taking
        await session.collector.close()
        return collected

    after = asyncio.run(again())
    waiting = {1, 2, 3} - first_tokens(before)
    assert waiting <= first_tokens(after) and len(after.used) == 2


def test_a_group_that_the_journal_has_lost_is_counted_and_told(server, tmp_path):
    async def first():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await one_by_one(server, [group(0, scores=(0.0, 0.0)), group(1)], [group(2), group(3)])
        collected = await taking
        await session.collector.close()
        session.journal.prune(1)
        return collected

    before = asyncio.run(first())
    (left,) = tmp_path.glob("journal/group-*.npz")
    left.write_bytes(b"torn")

    async def again():
        session = Run(server, tmp_path, position=before.position)
        taking = asyncio.create_task(session.take(2))
        await trained(server)
        push(server, group(5), group(6))
        collected = await taking
        await session.collector.close()
        return collected, session.said

    after, said = asyncio.run(again())
    progress = Progress()
    progress.count(before, group_size=2)
    progress.count(after, group_size=2)
    assert progress.rollouts["quarantined"] == 2 and any("is lost" in line for line in said)


def test_a_malformed_group_ends_the_run_by_name_and_the_others_are_kept(server, tmp_path):
    wrong = group(0) | {"masks": [[-100, 5, 9], [-100, 20, 8]]}

    async def first():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await trained(server)
        push(server, wrong, group(1))
        with pytest.raises(MalformedGroupError, match="has mask 5 at token 10") as refused:
            await taking
        await session.collector.close()
        return str(refused.value)

    said = asyncio.run(first())
    (kept,) = (tmp_path / "refused").iterdir()
    assert str(kept) in said and "--resume" in said
    assert json.loads(kept.read_text())["masks"] == wrong["masks"]

    async def again():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await trained(server)
        push(server, group(2), group(3))
        collected = await taking
        await session.collector.close()
        return collected

    assert 1 in first_tokens(asyncio.run(again())), "the group that was right is not lost"


def test_a_server_that_was_started_again_gets_the_trainer_back(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        await trained(server)
        server.kill()
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        await trained(server)
        push(server, group(0), group(1))
        collected = await taking
        await session.collector.close()
        return collected, session.said

    collected, said = asyncio.run(run())
    assert first_tokens(collected) == {0, 1}
    assert any("registering again" in line for line in said) or any("answers again" in line for line in said)


def test_a_server_that_is_started_again_while_the_trainer_registers_gets_it_too(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        taking = asyncio.create_task(session.take(1))
        for _ in range(3):
            await asyncio.sleep(0.05)
            server.kill()
            await asyncio.to_thread(server.start)
        await trained(server)
        push(server, group(0), group(1))
        collected = await taking
        await session.collector.close()
        return collected

    assert first_tokens(asyncio.run(run())) == {0, 1}


def test_a_server_that_stays_away_ends_the_run_and_says_how_to_go_on(server, tmp_path):
    async def run():
        session = Run(server, tmp_path, config=config_of(server, outage_limit_s=0.2))
        server.kill()
        with pytest.raises(EngineError, match=r"no Atropos server at .* start one"):
            await session.take(1)
        await session.collector.close()

    asyncio.run(run())


def test_a_server_of_another_trainer_is_refused(server, tmp_path):
    async def run():
        session = Run(server, tmp_path)
        server.post(
            "/register",
            {"wandb_group": "", "wandb_project": "", "batch_size": 6, "max_token_len": 9, "checkpoint_dir": "",
             "save_checkpoint_interval": 1, "starting_step": 0, "num_steps": 1},
        )  # fmt: skip
        with pytest.raises(EngineError, match="batches of 6 sequences, as another trainer has asked; this run needs 4"):
            await session.take(1)
        await session.collector.close()

    asyncio.run(run())


@pytest.mark.parametrize(("version", "used"), [(8, 2), (6, 2), (5, 0)])
def test_groups_of_known_age_are_dropped_when_they_are_too_old(server, tmp_path, version, used):
    """Two updates a batch, at most one batch behind, the newest version is 8: 6 is one batch behind, 5 is two."""
    old = {"generation_params": {"policy_version": [version, 8]}}

    async def run():
        session = Run(server, tmp_path, version=8, config=config_of(server))
        taking = asyncio.create_task(session.take(5))
        await one_by_one(server, [group(0, **old), group(1, **old)], *([] if used else [[group(2), group(3)]]))
        collected = await taking
        await session.collector.close()
        return collected

    collected = asyncio.run(run())
    assert (0 in first_tokens(collected)) == bool(used)
    stale = [g for g in collected.groups if g.drop_reason is DropReason.STALE]
    assert len(stale) == (0 if used else 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"source": "atropos"}}, "name the server: --rollout.source-url"),
        ({"rollout": {"source_url": "http://x"}}, "give none, or source atropos"),
        ({"rollout": {"source": "atropos", "source_url": "http://x"}}, "--rollout.max-staleness 1 or more"),
        (
            {
                "rollout": {"source": "atropos", "source_url": "http://x", "max_staleness": 1},
                "experience": {"overlong": "keep"},
            },
            "use --experience.overlong zero_advantage",
        ),
    ],
)
def test_a_config_that_cannot_pull_says_why(changes, said):
    with pytest.raises(ValueError, match=said):
        make_config(**changes)
