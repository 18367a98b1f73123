"""What happens around an update."""

import asyncio
import math
from unittest.mock import AsyncMock, Mock

import pytest
from small import change

from nouscoder_jax.loop import train_step
from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.learner import PolicyLearner, samples_of_an_evaluation
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.loop.publish import Publisher
from nouscoder_jax.loop.recorder import Recorder
from nouscoder_jax.loop.setup import Components
from nouscoder_jax.metrics.display import Display
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training.trainer import Trainer


@pytest.fixture
def update(tiny_config, monkeypatch):
    """What was called, in its order, in an update that ends in `outcome`."""

    def update(outcome, *, memory_saver):
        calls = []

        def train_on(*args, **kwargs):
            calls.append("train")
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(train_step, "train_on", train_on)
        monkeypatch.setattr(train_step, "check_full", lambda *args, **kwargs: None)
        engine = Mock(spec=Engine)
        engine.release_memory = AsyncMock(side_effect=lambda: calls.append("release"))
        engine.resume_memory = AsyncMock(side_effect=lambda: calls.append("resume"))
        publisher = Mock(spec=Publisher)
        publisher.publish = AsyncMock(side_effect=lambda version: calls.append("publish") or {})
        server = {"memory_saver": memory_saver, "placement": "colocated" if memory_saver else "split"}
        if memory_saver:
            server |= {"trainer_memory_fraction": 0.5, "memory_fraction": 0.4}
        config = change(tiny_config, server=server)
        recorder = Mock(spec=Recorder, timer=StageTimer())
        learner = PolicyLearner(
            Mock(spec=Components, config=config), Mock(spec=Trainer), engine, publisher,
            Mock(spec=RunFolder), progress=Progress(), recorder=recorder, display=Mock(spec=Display),
        )  # fmt: skip
        try:
            asyncio.run(learner.update(Mock(spec=Collected, step=1, used=[object()])))
        except MemoryError:
            calls.append("raised")
        return calls

    return update


def test_an_engine_on_the_same_gpus_gives_its_memory_back_while_weights_are_updated(update):
    metrics = {"update/skipped": 0.0, "update/loss": math.pi}
    assert update(metrics, memory_saver=True) == ["release", "train", "resume", "publish"]
    assert update(metrics, memory_saver=False) == ["train", "publish"]


def test_an_engine_has_its_memory_again_after_an_update_that_failed(update):
    assert update(MemoryError(), memory_saver=True) == ["release", "train", "resume", "raised"]


@pytest.mark.parametrize(
    ("step", "fields", "expected"),
    [
        (0, {}, 16),
        (6, {}, 4),
        (24, {}, 16),
        (6, {"samples_between": 0}, 16),
        (6, {"samples_per_problem": 2}, 2),
    ],
)
def test_only_evaluations_on_the_way_are_of_a_part_of_the_samples(tiny_config, step, fields, expected):
    assert samples_of_an_evaluation(change(tiny_config, evaluation=fields), step=step) == expected
