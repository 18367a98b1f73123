"""What a run writes can be read back, survives a resume and is readable without a terminal."""

import io
import json
import math
import struct
from pathlib import Path

import pytest
import wandb

from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.metrics import names
from nouscoder_jax.metrics.display import Display, step_line
from nouscoder_jax.metrics.plot import plot_pass_at_1
from nouscoder_jax.metrics.sinks import JsonlSink, TensorBoardSink, WandbSink, read_jsonl
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.types import Outcome

STEP = {
    names.STEP: 3,
    names.POLICY_VERSION: 3,
    names.REWARD_MEAN: -0.125,
    names.SOLVED_SHARE: 0.4375,
    names.GROUPS_USED: 16,
    names.GROUPS_DROPPED: 5,
    names.TRUNCATED_SHARE: 0.02,
    names.TOKENS_PER_S: 12345.6,
    names.VERIFICATIONS_PER_S: 210.2,
    names.STALENESS_BATCHES_MEAN: 0.0,
    names.SECONDS_TOTAL: 2.14,
    names.SECONDS_PREFIX + "generate": 1.2,
    names.SECONDS_PREFIX + "update": 0.51,
}


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def write_steps(path, steps, *, resume_step=None):
    sink = JsonlSink(path, resume_step=resume_step)
    for step in steps:
        sink.write({names.STEP: step, names.LOSS: float(step)})
    sink.close()


def test_a_step_is_readable_as_soon_as_it_is_written(tmp_path):
    sink = JsonlSink(tmp_path / "m.jsonl", resume_step=None)
    sink.write({names.STEP: 1, names.LOSS: 0.5})
    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1, "update/loss": 0.5}]
    sink.close()


def test_resuming_removes_the_steps_that_come_again(tmp_path):
    write_steps(tmp_path / "m.jsonl", [1, 2, 3, 4])
    write_steps(tmp_path / "m.jsonl", [3], resume_step=2)
    assert [line["step"] for line in read_jsonl(tmp_path / "m.jsonl")] == [1, 2, 3]


def test_resuming_removes_a_torn_last_line(tmp_path):
    write_steps(tmp_path / "m.jsonl", [1])
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"step": 2, "upd')
    write_steps(tmp_path / "m.jsonl", [2], resume_step=5)
    assert [line["step"] for line in read_jsonl(tmp_path / "m.jsonl")] == [1, 2]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    sink = JsonlSink(tmp_path / "m.jsonl", resume_step=None)
    sink.write({names.STEP: 1, names.LOSS: math.nan, names.RATIO_MAX: math.inf})
    sink.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 1, "update/loss": None, "update/ratio_max": None}


@pytest.mark.parametrize("make", [JsonlSink, TensorBoardSink])
def test_a_name_that_is_not_documented_is_refused(tmp_path, make):
    sink = make(tmp_path / "sink", resume_step=None)
    with pytest.raises(ValueError, match=r"speed.*names.py"):
        sink.write({names.STEP: 1, "speed": 1.0})
    sink.close()


def test_every_name_has_a_meaning():
    constants = {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)}
    assert constants - {names.SECONDS_PREFIX} <= names.METRICS.keys()
    assert all(metric.meaning for metric in names.METRICS.values())


def test_tensorboard_files_hold_the_numbers(tmp_path):
    sink = TensorBoardSink(tmp_path, resume_step=None)
    sink.write({names.STEP: 7, names.LOSS: 0.25})
    sink.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    content = file.read_bytes()
    assert b"update/loss" in content and struct.pack("<f", 0.25) in content


def test_tensorboard_shows_every_metric_in_a_group():
    shown = [names.TENSORBOARD.get(name, name) for name in names.METRICS if name != names.STEP]
    assert all("/" in name for name in shown) and len(set(shown)) == len(shown)


def test_tensorboard_files_hold_the_names_with_their_groups(tmp_path):
    sink = TensorBoardSink(tmp_path, resume_step=None)
    sink.write({names.STEP: 7, names.SOLVED_SHARE: 0.25})
    sink.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    assert b"outcomes/solved_share" in file.read_bytes()


def test_weights_and_biases_gets_a_step_once_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log, logged = wandb.Run.log, []

    def watched(run, values, step):
        logged.append((run.id, step, values["reward/mean"]))
        log(run, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", watched)
    for steps in ((1, 2, 3), (3, 4)):  # step 3 is done again after a crash
        sink = WandbSink(tmp_path / "wandb", name="run")
        for step in steps:
            sink.write({"step": step, "reward/mean": step / 10})
        sink.close()
    (run,) = {one for one, _, _ in logged}
    assert [(step, value) for _, step, value in logged] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    files = list((tmp_path / "wandb/wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))
    assert len(files) == 2 and all(b"reward/mean" in file.read_bytes() for file in files)


def test_a_step_is_one_line_with_everything_a_person_asks_for():
    assert step_line(STEP, num_steps=40) == (
        "step  3/40  policy v3  reward -0.12  solved 44%  groups 16 used/5 dropped  truncated 2%  12,346 tokens/s  "
        "210 verifications/s  staleness 0.0  2.1 s (generate 1.2, update 0.5)"
    )


def test_a_step_says_why_programs_and_groups_do_not_count_and_no_more():
    reasons = dict.fromkeys([*names.OUTCOME_SHARES.values(), *names.DROP_SHARES.values()], 0.0) | {
        names.OUTCOME_SHARES["no_program"]: 0.25,
        names.OUTCOME_SHARES["wrong_answer"]: 0.31,
        names.OUTCOME_SHARES["time_limit"]: 0.001,
        names.DROP_SHARES["equal"]: 0.2,
    }
    assert (
        "solved 44% (wrong answer 31%, no program 25%, time limit <1%)  groups 16 used/5 dropped (equal 20%)  "
        "truncated 2%" in step_line(STEP | reasons, num_steps=40)
    )
    unjudged = dict.fromkeys(names.OUTCOME_SHARES.values(), math.nan)
    assert "solved 44%  groups" in step_line(STEP | unjudged, num_steps=40)


def test_every_outcome_and_every_reason_has_its_share():
    assert {outcome.value for outcome in Outcome} == {"accepted", *names.OUTCOME_SHARES}
    assert {reason.value for reason in DropReason} == set(names.DROP_SHARES)


def test_a_missing_metric_shows_as_a_dash():
    assert "reward -  solved -" in step_line({names.STEP: 1}, num_steps=9)


def test_without_a_terminal_there_are_plain_lines_only():
    stream = io.StringIO()
    with Display(num_steps=40, stream=stream) as display:
        display.progress("generate", done=1, total=2)
        display.step(STEP)
        display.line("[bold] is text")
    assert stream.getvalue() == step_line(STEP, num_steps=40) + "\n[bold] is text\n"


def test_on_a_terminal_the_lines_stay_whole_and_bars_move():
    stream = FakeTerminal()
    with Display(num_steps=40, stream=stream) as display:
        display.at(2)
        display.progress("generate", done=1, total=2)
        display.step(STEP)
        display.progress("generate", done=2, total=2)
    assert step_line(STEP, num_steps=40) in stream.getvalue()
    assert "generate" in stream.getvalue().replace(step_line(STEP, num_steps=40), "")


def test_overlapping_work_of_a_stage_counts_once():
    clock = FakeClock()
    timer = StageTimer(clock=clock)
    with timer.stage("verify"):
        clock.now += 1
        with timer.stage("verify"):
            clock.now += 2
    clock.now += 4
    with timer.stage("update"):
        clock.now += 8
    assert timer.take() == {"verify": 3, "update": 8, "total": 15}


def test_a_stage_that_still_runs_is_split_between_steps():
    clock = FakeClock()
    timer = StageTimer(clock=clock)
    with timer.stage("generate"):
        clock.now += 1
        assert timer.take() == {"generate": 1, "total": 1}
        clock.now += 2
    assert timer.take() == {"generate": 2, "total": 2}
    assert timer.take() == {"total": 0}


def test_the_picture_of_a_run_is_a_png_of_readable_size(tmp_path):
    path = tmp_path / "pass_at_1.png"
    plot_pass_at_1(path, [(0, 0.2), (10, 0.6)], training=[(1, 0.3), (2, 0.4)], title="tiny")
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", header[16:24]) == (1200, 675)


@pytest.mark.parametrize(
    ("held_out", "training", "told"),
    [
        ([(0, 0.2), (5, 0.9), (10, 0.6)], [(1, 0.3), (2, 0.4)], ["20.0%", "60.0%"]),
        ([(0, 0.2)], [], ["20.0%"]),
        ([], [], []),
    ],
)
def test_the_picture_of_a_run_has_its_points_and_says_the_first_and_the_last(held_out, training, told, monkeypatch):
    drawn = []

    def save(figure, path):
        (axes,) = figure.axes
        drawn.append(([line.get_xydata().tolist() for line in axes.lines], [text.get_text() for text in axes.texts]))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)
    plot_pass_at_1(Path("nowhere"), held_out, training=training, title="tiny")
    assert drawn == [([list(map(list, points)) for points in (training, held_out) if points], told)]


def test_the_legend_is_beside_the_curve_wherever_it_runs(monkeypatch):
    boxes = []

    def save(figure, path):
        figure.draw_without_rendering()
        (axes,), (legend,) = figure.axes, figure.legends
        boxes.append((legend.get_window_extent(), axes.get_tightbbox()))
        assert axes.get_legend() is None

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)
    plot_pass_at_1(Path("nowhere"), [(0, 0.2), (10, 0.0)], training=[(1, 0.1), (2, 0.0)], title="tiny")
    ((legend, axes),) = boxes
    assert not legend.overlaps(axes)
