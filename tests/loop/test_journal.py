"""The journal: what comes back after a crash, what does not, and the law that every rollout is somewhere."""

import dataclasses
from pathlib import Path

import pytest
from small import change, make_config

from nouscoder_jax.experience.filters import classify_group
from nouscoder_jax.loop.changes import config_hash
from nouscoder_jax.loop.groups import Collected, Draw, Group, Judged, Position
from nouscoder_jax.loop.journal import Journal
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.types import (
    Completion,
    ConservationError,
    Outcome,
    Prompt,
    Rollout,
    Verdict,
    VersionSpan,
)

PROMPT = Prompt(problem_id="p", token_ids=(3, 4))
DRAW = Draw(group_id=17, problem_index=5)
POSITION = Position(next_group_id=20, stream_state={"next_index": 20}, pending=(Draw(18, 1), Draw(19, 2)))


def rollout(sample_index: int, *, length: int = 3, versions: tuple[int, ...] = (4,)) -> Rollout:
    spans = tuple(VersionSpan(v, i * length, (i + 1) * length) for i, v in enumerate(versions))
    number = length * len(versions)
    completion = Completion(
        token_ids=tuple(range(number)),
        behavior_logprobs=tuple(-0.1 * (i + 1) / 3 for i in range(number)),
        finish_reason="stop",
        policy_version=min(versions),
        spans=spans if len(versions) > 1 else (),
    )
    return Rollout(
        group_id=DRAW.group_id,
        sample_index=sample_index,
        prompt=PROMPT,
        completion=completion,
        text="naïve ✓\n```",
        program=None if sample_index else "print(1)",
    )


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(
        outcome=outcome, tests_passed=1, tests_total=2, cpu_s=0.1, peak_memory_mib=3.3, detail="test 1: \udce9"
    )


JUDGED = Judged(
    rollouts=(rollout(0), rollout(1, length=1), rollout(2, length=2, versions=(4, 6))),
    verdicts=(verdict(Outcome.ACCEPTED), verdict(Outcome.NO_PROGRAM), None),
    judge_failures=("the engine is gone",),
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def reopen(tmp_path: Path, said: list[str]):
    return lambda config_hash="a": Journal(tmp_path / "journal", config_hash=config_hash, say=said.append)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "journal").iterdir() if path.name != "config")


def test_a_group_comes_back_to_the_last_bit(reopen, said):
    reopen().write_group(DRAW, JUDGED, started_after=3)
    journal = reopen()
    assert journal.started_after(DRAW) == 3 and len(journal) == 1
    assert journal.read_group(DRAW, PROMPT, newest=6) == JUDGED
    assert said == []


def test_a_group_from_elsewhere_comes_back_with_its_own_prompts_scores_and_masks(reopen):
    one = rollout(0)
    completion = dataclasses.replace(one.completion, policy_version=-1, loss_mask=(True, False, True))
    own = Prompt(problem_id="atropos/3", token_ids=(9, 8, 7), text="asked")
    pulled = dataclasses.replace(one, completion=completion, prompt=own, score=0.5)
    judged = Judged(rollouts=(pulled, dataclasses.replace(pulled, sample_index=1, score=0.0)), verdicts=(None, None),
                    judge_failures=())  # fmt: skip
    reopen().write_group(DRAW, judged, started_after=2)
    assert reopen().read_group(DRAW, None, newest=0) == judged


def test_a_batch_comes_back_with_where_drawing_stood(reopen):
    group = Group(draw=DRAW, started_after=0, experiences=(), drop_reason=None, judge_failures=())
    collected = Collected(step=4, groups=(group,), position=POSITION, num_in_flight=6, waiting=(3, 99))
    reopen().write_batch(collected)
    record = reopen().read_batch(4)
    assert (record.draws, record.position, record.num_in_flight, record.waiting) == ((DRAW,), POSITION, 6, (3, 99))
    assert reopen().read_batch(5) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone"])
def test_a_damaged_group_counts_as_absent_and_is_told(reopen, said, tmp_path, damage):
    reopen().write_group(DRAW, JUDGED, started_after=3)
    (path,) = (tmp_path / "journal").glob("group-*")
    content = path.read_bytes()
    journal = reopen()
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        at = content.index(b"token_ids.npy") + 140
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    assert journal.read_group(DRAW, PROMPT, newest=6) is None
    assert journal.started_after(DRAW) is None and files(tmp_path) == []
    assert len(said) == 1 and "group 17" in said[0] and "generated again" in said[0]


def test_tokens_of_weights_that_are_not_there_any_more_are_not_used(reopen, said):
    journal = reopen()
    journal.write_group(DRAW, JUDGED, started_after=3)
    assert journal.read_group(DRAW, PROMPT, newest=5) is None
    assert "weights that are not there" in said[0]


def test_a_group_of_another_draw_of_the_same_number_is_not_used(reopen):
    journal = reopen()
    journal.write_group(DRAW, JUDGED, started_after=3)
    assert journal.read_group(Draw(17, 6), PROMPT, newest=6) is None


def test_a_journal_of_another_config_is_emptied_and_that_is_told(reopen, said, tmp_path):
    journal = reopen()
    journal.write_group(DRAW, JUDGED, started_after=3)
    group = Group(draw=DRAW, started_after=0, experiences=(), drop_reason=None, judge_failures=())
    journal.write_batch(Collected(step=4, groups=(group,), position=POSITION, num_in_flight=6, waiting=(0, 0)))
    assert len(reopen("b")) == 0 and files(tmp_path) == []
    assert len(said) == 1 and "another config" in said[0]
    reopen("b")
    assert len(said) == 1


def test_a_checkpoint_makes_its_batches_and_their_groups_superfluous(reopen, tmp_path):
    journal = reopen()
    for step, draw in ((4, DRAW), (5, Draw(18, 1))):
        journal.write_group(draw, JUDGED, started_after=3)
        group = Group(draw=draw, started_after=0, experiences=(), drop_reason=None, judge_failures=())
        journal.write_batch(Collected(step=step, groups=(group,), position=POSITION, num_in_flight=6, waiting=(0, 0)))
    journal.write_group(Draw(19, 2), JUDGED, started_after=4)
    journal.prune(4)
    assert files(tmp_path) == ["batch-000005.json", "group-000018-after-000003.npz", "group-000019-after-000004.npz"]


def test_what_was_handed_over_before_the_checkpoint_is_cleared_up(reopen, tmp_path):
    journal = reopen()
    for draw in (DRAW, Draw(18, 1), Draw(20, 3)):
        journal.write_group(draw, JUDGED, started_after=3)
    journal.settle(POSITION)
    assert files(tmp_path) == ["group-000018-after-000003.npz", "group-000020-after-000003.npz"]


def test_half_written_files_of_a_kill_are_cleared_up(reopen, tmp_path):
    reopen()
    (tmp_path / "journal" / "group-000001-after-000000.npz.part").write_bytes(b"PK")
    assert len(reopen()) == 0 and files(tmp_path) == []


def test_what_decides_a_group_or_a_batch_decides_the_hash_and_nothing_else(tiny_config):
    config, rollout = tiny_config, tiny_config.rollout
    for same in (
        change(config, num_steps=99, run_dir="elsewhere"),
        change(config, rollout={"request_timeout_s": 1.0}),
        change(config, checkpoint={"keep": 9}),
    ):
        assert config_hash(same) == config_hash(config)
    for other in (
        change(config, seed=5),
        change(config, rollout={"group_size": rollout.group_size + 1}),
        change(config, loss={"clip_low": 0.123}),
    ):
        assert config_hash(other) != config_hash(config)


def collected_of(**changes) -> Collected:
    config = make_config().experience
    rewarded = (verdict(Outcome.ACCEPTED), verdict(Outcome.WRONG_ANSWER), None)
    experiences, drop_reason = classify_group(JUDGED.rollouts, rewarded, config=config)
    group = Group(draw=DRAW, started_after=0, experiences=experiences, drop_reason=drop_reason, judge_failures=())
    position = Position(next_group_id=3, stream_state=None, pending=(Draw(1, 1), Draw(2, 2)))
    values = dict(step=1, groups=(group,), position=position, num_in_flight=6, waiting=(3, 99))
    return Collected(**(values | changes))


def test_every_rollout_drawn_is_in_one_class_and_each_class_has_its_mean_length(root: Path):
    progress = Progress()
    progress.count(collected_of(), group_size=3)
    metrics = progress.metrics(group_size=3)
    assert metrics["rollouts/drawn"] == 9 and metrics["rollouts/in_flight"] == 6
    assert (metrics["rollouts/trained"], metrics["rollouts/quarantined"]) == (2, 1)
    assert (metrics["completion_tokens/trained"], metrics["completion_tokens/quarantined"]) == (2, 4)
    assert metrics["completion_tokens/in_flight"] == 33
    table = "\n".join(progress.table(group_size=3))
    assert "drawn: 9" in table and "2.0 tokens" in table and "in flight" in table


@pytest.mark.parametrize("breach", ["a group is lost", "a group comes twice", "in flight and not kept"])
def test_a_breach_of_the_law_stops_the_run_with_its_counts(root: Path, breach: str):
    whole = collected_of()
    broken = {
        "a group is lost": dataclasses.replace(whole, groups=()),
        "a group comes twice": dataclasses.replace(whole, groups=whole.groups * 2),
        "in flight and not kept": dataclasses.replace(
            whole, position=dataclasses.replace(whole.position, pending=whole.position.pending[:1])
        ),
    }[breach]
    with pytest.raises(ConservationError, match="9 rollouts were drawn"):
        Progress().count(broken, group_size=3)
