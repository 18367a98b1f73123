"""New weights are exported, loaded and compared before anything is trained on what they draw."""

import asyncio

import numpy as np
import pytest
from small import change

from nouscoder_jax.loop.publish import Publisher
from nouscoder_jax.metrics.timer import StageTimer
from nouscoder_jax.rollout import engine
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training import trainer
from nouscoder_jax.types import DriftError

SEQUENCES = ((5, 6, 7), (8, 9))


class Trainer(trainer.Trainer):
    """Says -1, -2, ... of the tokens of a row."""

    architecture = None

    def __init__(self):
        self.calls, self.batch = [], None

    def export(self, out_dir, *, policy_version):
        self.calls.append("export")
        out_dir.mkdir(parents=True)
        (out_dir / "manifest.json").write_text("{}")

    def score(self, batch, num_micro_batches):
        self.calls.append("score")
        self.batch = batch
        assert num_micro_batches == 1
        return -1.0 - np.tile(np.arange(batch.tokens.shape[1], dtype=np.float32), (len(batch.tokens), 1))


class Engine(engine.Engine):
    """Says the same, or `off` more."""

    name, policy_version, num_slots = "scripted", 0, 1

    def __init__(self, calls, off=0.0):
        self.calls, self.off = calls, off

    async def reload(self, export_dir, *, policy_version):
        self.calls.append(f"reload {policy_version}")

    async def prove(self, probe):
        self.calls.append(f"prove {probe.policy_version}")
        assert probe.logprobs == ((-1.0, -2.0), (-1.0,)) and probe.sequences == SEQUENCES
        return probe.compare([[one + self.off for one in row] for row in probe.logprobs], who="the server")


@pytest.fixture
def make(tiny_config, tmp_path):
    def make(off=0.0):
        config = change(tiny_config, loss={"max_drift": 0.3})
        ours, folder = Trainer(), RunFolder(path=tmp_path)
        theirs = Engine(ours.calls, off)
        return Publisher(config, ours, theirs, folder, sequences=SEQUENCES, timer=StageTimer()), ours

    return make


def test_a_version_is_published_once_and_measured(make):
    publisher, ours = make()
    assert asyncio.run(publisher.publish(3)) == {"probe/drift_mean": 0.0, "probe/drift_max": 0.0}
    assert asyncio.run(publisher.publish(3)) == {}
    assert ours.calls == ["export", "reload 3", "score", "prove 3"]
    batch = ours.batch
    assert batch.tokens[0, :3].tolist() == [5, 6, 7] and batch.targets[0, :2].tolist() == [6, 7]
    assert batch.segment_ids.sum() == 5 and not batch.loss_mask.any()


def test_an_engine_that_is_0_7_nats_off_under_a_bound_of_0_3_ends_the_run_at_the_first_version(make):
    publisher, _ = make(off=0.7)
    with pytest.raises(DriftError, match="the server and the trainer both have policy version 0"):
        asyncio.run(publisher.publish(0))
