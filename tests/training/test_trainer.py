"""Weights that are not finite go nowhere: not into an export, not into a checkpoint, not back out of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.model.weights import abstract_model, save_model
from nouscoder_jax.training.trainer import LocalTrainer


@pytest.fixture
def trainer(architecture, make_config, tmp_path):
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), abstract_model(architecture))
    save_model(model, architecture, tmp_path / "model", dtype="float32", tokenizer_dir=None)
    told = []
    trainer = LocalTrainer(make_config(model={"path": str(tmp_path / "model")}), say=told.append)
    trainer.told = told
    trainer.open(tmp_path / "checkpoints")
    yield trainer
    trainer.close()


def spoil(trainer):
    trainer._state = trainer.state._replace(model=jax.tree.map(lambda leaf: leaf * jnp.nan, trainer.state.model))


def test_they_are_neither_exported_nor_saved(trainer, tmp_path):
    trainer.start()
    trainer.export(tmp_path / "export", policy_version=0)
    before = (tmp_path / "export" / "manifest.json").read_bytes()
    spoil(trainer)
    with pytest.raises(UserError, match=f"{tmp_path / 'export'} is not written: weights or moments are not finite"):
        trainer.export(tmp_path / "export", policy_version=1)
    with pytest.raises(UserError, match=r"checkpoints/1 is not written"):
        trainer.checkpoint(1, {"step": 1}, pass_at_1=None)
    assert (tmp_path / "export" / "manifest.json").read_bytes() == before and not trainer.has_checkpoint()


def test_a_checkpoint_that_holds_them_is_passed_over(trainer):
    trainer.start()
    trainer.checkpoint(1, {"step": 1}, pass_at_1=None)
    spoil(trainer)
    trainer.checkpointer.save(2, trainer.state, {"step": 2})
    assert trainer.restore(None) == {"step": 1}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trainer.state.model))
    assert len(trainer.told) == 1 and "not finite" in trainer.told[0] and "step 1 is used" in trainer.told[0]
