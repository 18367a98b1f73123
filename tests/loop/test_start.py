"""Where a session starts: new, resumed, or resumed at an earlier step."""

import json

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.loop.open_folder import Resume
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.start import start
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training import trainer

NEWEST, THIRD = Resume(step=None, with_changes=False), Resume(step=3, with_changes=False)


class Trainer(trainer.Trainer):
    """Has a checkpoint of step 5, and of any that is named, or none."""

    architecture = None

    def __init__(self, has_one):
        self.has_one, self.calls = has_one, []

    def open(self, checkpoints):
        self.calls.append(f"open {checkpoints.name}")

    def has_checkpoint(self):
        return self.has_one

    def start(self):
        self.calls.append("start")

    def restore(self, step):
        self.calls.append(f"restore {step}")
        return vars(Progress(step=step or 5))


@pytest.mark.parametrize(
    ("resume", "has_one", "call", "finished", "has_journal"),
    [
        (None, False, "start", None, True),
        (NEWEST, False, "start", -1, True),
        (NEWEST, True, "restore None", 5, True),
        (THIRD, True, "restore 3", 3, False),  # the journal is of later steps
    ],
    ids=["new", "killed before its first checkpoint", "resumed", "resumed at a step"],
)
def test_weights_come_from_the_base_model_or_from_a_checkpoint(
    tiny_config, tmp_path, resume, has_one, call, finished, has_journal
):
    folder, ours = RunFolder(path=tmp_path), Trainer(has_one)
    folder.journal.mkdir()
    started = start(ours, folder, resume, config=tiny_config)
    assert ours.calls == ["open checkpoints", call]
    assert (started.resumed, started.has_begun) == (resume is not None, call != "start")
    assert started.finished_step == finished and folder.journal.exists() == has_journal
    assert folder.read_config(option="--resume") == tiny_config
    (begun,) = (json.loads(line) for line in folder.configs.read_text().splitlines())
    assert begun["after_step"] == max(finished or 0, 0)


class Refusing(Trainer):
    """Cannot take what it is given."""

    def start(self):
        raise UserError("no memory")

    def restore(self, step):
        raise UserError("damaged")


def test_a_new_folder_holds_a_run_before_a_trainer_writes_to_it(tiny_config, tmp_path):
    folder = RunFolder(path=tmp_path / "run")
    with pytest.raises(UserError, match="no memory"):
        start(Refusing(has_one=False), folder, None, config=tiny_config)
    assert folder.config.exists()  # a start can be tried again with --resume


def test_a_folder_that_another_start_has_made_meanwhile_is_left_to_it(tiny_config, tmp_path):
    folder = RunFolder(path=tmp_path)
    start(Trainer(False), folder, None, config=tiny_config)
    before, late = folder.configs.read_text(), Trainer(False)
    with pytest.raises(UserError, match="already holds a run"):
        start(late, folder, None, config=tiny_config)
    assert late.calls == [] and folder.configs.read_text() == before


def test_a_resume_that_finds_no_weights_leaves_the_config_as_it_was(tiny_config, tmp_path):
    folder = RunFolder(path=tmp_path)
    with pytest.raises(UserError, match="damaged"):
        start(Refusing(has_one=True), folder, THIRD, config=tiny_config)
    assert not folder.config.exists()


def test_rollouts_and_held_out_samples_of_steps_that_come_again_are_taken_away(tmp_path):
    folder = RunFolder(path=tmp_path)
    folder.rollouts.mkdir()
    for step in (0, 3, 4):
        folder.write_rollouts(step, [{"step": step}])
        folder.write_held_out(step, [{"step": step}])
    folder.drop_rollouts_after(3)
    assert folder.rollout_steps() == [0, 3]
    assert sorted(path.name for path in folder.held_out.iterdir()) == ["step-000000.jsonl", "step-000003.jsonl"]
