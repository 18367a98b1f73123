"""What may change between two sessions of a run, and what must be asked for."""

import json
import shutil

import pytest
from small import change

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop import open_folder
from nouscoder_jax.loop.changes import changes
from nouscoder_jax.loop.open_folder import Resume

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


def begin(config):
    """A run that has begun."""
    folder = open_folder.find_new(config)
    open_folder.begin(folder, config, after_step=0)
    return folder


def test_another_seed_is_refused_and_nothing_is_lost_unless_it_is_asked_for(config):
    folder, said, other = begin(config), [], change(config, seed=7)
    before = folder.config.read_text()
    with pytest.raises(UserError, match=r"would go on with changes: seed 0 -> 7.*--resume-with-changes"):
        open_folder.find_resumed(other, PLAIN, say=said.append)
    open_folder.find_resumed(config, PLAIN, say=said.append)
    assert folder.config.read_text() == before and said == []
    open_folder.find_resumed(other, Resume(step=None, with_changes=True), say=said.append)
    assert said == ["resumed with changes: seed 0 -> 7"] and folder.config.read_text() == before
    open_folder.begin(folder, other, after_step=0)
    open_folder.find_resumed(other, PLAIN, say=said.append)  # it is the run's own now
    assert json.loads(folder.config.read_text())["seed"] == 7


def test_a_problem_file_may_move_but_not_change(config, tmp_path):
    begin(config)
    shutil.copy(config.data.problems, tmp_path / "moved.jsonl")
    moved = change(config, data={"problems": str(tmp_path / "moved.jsonl")})
    open_folder.find_resumed(moved, PLAIN, say=print)
    lines = (tmp_path / "moved.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "moved.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match=r"the file of data.problems holds something else"):
        open_folder.find_resumed(moved, PLAIN, say=print)


@pytest.mark.parametrize(
    ("num_steps", "step", "refused"), [(2, None, True), (4, None, False), (5, None, False), (2, 2, False), (2, 3, True)]
)
def test_a_run_that_has_more_steps_than_are_asked_for_says_what_to_do(config, monkeypatch, num_steps, step, refused):
    begin(config)
    monkeypatch.setattr(open_folder, "complete_scores", lambda folder: {2: None, 3: None, 4: 0.5})
    less, resume = change(config, num_steps=num_steps), Resume(step=step, with_changes=False)
    if not refused:
        open_folder.find_resumed(less, resume, say=print)
        return
    told = rf"nothing to do: .* after step {step or 4}, and num_steps is 2; .*--num-steps {2 * (step or 4)}$"
    with pytest.raises(UserError, match=told):
        open_folder.find_resumed(less, resume, say=print)


def test_every_start_keeps_its_config_and_the_step_after_which_it_began(config):
    folder = begin(config)
    starts = [(4, change(config, rollout={"num_slots": 5})), (9, change(config, num_steps=99)), (4, config)]
    for after_step, other in starts:
        open_folder.begin(folder, other, after_step=after_step)
    lines = [json.loads(line) for line in folder.configs.read_text().splitlines()]
    kept = [(line["after_step"], TrainConfig.from_json(json.dumps(line["config"]))) for line in lines]
    assert kept == [(0, config), *starts]
    assert folder.read_config(option="--resume") == config


def test_a_folder_is_chosen_without_being_made(config):
    assert not open_folder.find_new(config).path.exists()


def test_what_a_failed_start_has_left_is_in_nobodys_way(config):
    folder = open_folder.find_new(config)
    folder.servers.mkdir(parents=True)
    (folder.servers / "server-30000.log").write_text("no GPU")
    (folder.path / "config.json.part").write_text("{")
    assert open_folder.find_new(config) == folder
    (folder.path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"is not empty and holds no run"):
        open_folder.find_new(config)


def test_a_run_is_not_begun_a_second_time(config):
    begin(config)
    with pytest.raises(UserError, match=r"already holds a run; continue it with --resume"):
        open_folder.find_new(config)
