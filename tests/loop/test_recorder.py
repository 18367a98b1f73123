"""What a line of metrics has besides a step's own."""

import io
from unittest import mock

import pytest

from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.recorder import Recorder, open_sinks
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.metrics.timer import SlotMeter, StageTimer
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.verifier.breaker import Breaker
from nouscoder_jax.verifier.sandbox import Sandbox

OF_A_STEP = {"completion_tokens/mean": 10.0, "groups/used": 2.0, "groups/dropped": 1.0}


@pytest.fixture
def recorder(tiny_config, tmp_path):
    folder, shown = RunFolder(path=tmp_path), io.StringIO()
    made = Recorder(
        tiny_config,
        open_sinks(tiny_config, folder, resume_step=None),
        progress=Progress(policy_version=7),
        breaker=Breaker(mock.create_autospec(Sandbox, instance=True), limit_s=1.0, say=print, num_waiting=lambda: 0),
        display=Display(num_steps=2, stream=shown),
    )
    made.lines = lambda: read_jsonl(folder.metrics)
    yield made
    made.close()


def test_step_0_is_written_without_idle_shares(recorder):
    recorder.write({"step": 0.0})
    (line,) = recorder.lines()
    assert line["policy_version"] == 7 and "engine/idle_share" not in line and "seconds/total" in line


def test_metrics_between_two_lines_are_in_the_next_and_in_no_other(recorder):
    recorder.add({"probe/drift_mean": 0.5})
    for step in (1.0, 2.0):
        recorder.write({"step": step})
    first, second = recorder.lines()
    assert first["probe/drift_mean"] == 0.5 and "probe/drift_mean" not in second


def test_an_evaluation_does_not_count_as_idle(recorder):
    now = 0.0
    recorder.meter, recorder.timer = SlotMeter(clock=lambda: now), StageTimer(clock=lambda: now)
    recorder.begin_steps(num_slots=2)
    with recorder.meter.slot(), recorder.timer.stage("update"):
        now = 10.0
    recorder.keep_idle_shares()
    now = 1000.0
    recorder.write({"step": 1.0})
    (line,) = recorder.lines()
    assert (line["engine/idle_share"], line["trainer/idle_share"]) == (0.5, 0.0)


def test_throughput_is_of_stages_that_took_time(recorder):
    with recorder.timer.stage("generate"):
        pass
    recorder.write({"step": 1.0} | OF_A_STEP)
    recorder.write({"step": 2.0} | OF_A_STEP)  # all groups came from the journal
    first, second = recorder.lines()
    num_rollouts = 3 * recorder._group_size
    assert first["throughput/tokens_per_s"] * first["seconds/generate"] == pytest.approx(10 * num_rollouts)
    assert "throughput/verifications_per_s" not in first and "throughput/tokens_per_s" not in second
