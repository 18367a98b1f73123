"""What may change between two sessions of a run, and what must be asked for."""

import json
import shutil
from pathlib import Path

import pytest
from small import change

from nouscoder_jax.config import UserError
from nouscoder_jax.loop import open_folder
from nouscoder_jax.loop.changes import changes
from nouscoder_jax.loop.open_folder import Resume
from nouscoder_jax.run_folder import RunFolder

PLAIN = Resume(step=None, with_changes=False)


@pytest.fixture
def config(tiny_config, tmp_path):
    """Of a run whose problem files are its own."""
    for name in ("problems", "held_out"):
        shutil.copy(getattr(tiny_config.data, name), tmp_path / f"{name}.jsonl")
    return change(
        tiny_config,
        run_dir=str(tmp_path / "run"),
        data={"problems": str(tmp_path / "problems.jsonl"), "held_out": str(tmp_path / "held_out.jsonl")},
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"seed": 7}, ["seed 0 -> 7"]),
        (
            {"rollout": {"group_size": 4}, "optimizer": {"learning_rate": 1.0}},
            ["group_size 8 -> 4", "learning_rate 0.0004"],
        ),
        ({"evaluation": {"samples_per_problem": 99}}, ["evaluation.samples_per_problem 16 -> 99"]),
        (
            {"num_steps": 99, "evaluation": {"every_steps": 1}, "checkpoint": {"keep": 9}, "rollout": {"num_slots": 5}},
            [],
        ),
        ({"loss": {"max_drift": 1.0}, "optimizer": {"max_skipped": 9}}, []),
    ],
)
def test_only_what_changes_the_meaning_of_a_run_is_named(config, fields, told):
    found = changes(config, change(config, **fields))
    assert len(found) == len(told)
    for field, words in zip(found, told, strict=True):
        assert words in field


def test_another_seed_is_refused_and_nothing_is_lost_unless_it_is_asked_for(config):
    open_folder.create(config)
    said, other = [], change(config, seed=7)
    before = RunFolder(path=Path(config.run_dir)).config.read_text()
    with pytest.raises(UserError, match=r"would go on with changes: seed 0 -> 7.*--resume-with-changes"):
        open_folder.reopen(other, PLAIN, say=said.append)
    folder = open_folder.reopen(config, PLAIN, say=said.append)
    assert folder.config.read_text() == before and said == []
    open_folder.reopen(other, Resume(step=None, with_changes=True), say=said.append)
    assert said == ["resumed with changes: seed 0 -> 7"] and json.loads(folder.config.read_text())["seed"] == 7
    open_folder.reopen(other, PLAIN, say=said.append)  # it is the run's own now


def test_a_problem_file_may_move_but_not_change(config, tmp_path):
    open_folder.create(config)
    shutil.copy(config.data.problems, tmp_path / "moved.jsonl")
    moved = change(config, data={"problems": str(tmp_path / "moved.jsonl")})
    open_folder.reopen(moved, PLAIN, say=print)
    lines = (tmp_path / "moved.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "moved.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match=r"the file of data.problems holds something else"):
        open_folder.reopen(moved, PLAIN, say=print)
