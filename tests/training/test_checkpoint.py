"""Checkpoints: what was saved comes back, on any mesh, or the folder is named."""

import jax
import numpy as np
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import abstract, named_leaves
from nouscoder_jax.training.update import make_update

PROGRESS = {"step": 3, "policy_version": 7, "data": {"position": [1, 2], "name": "ä"}}


@pytest.fixture
def saved(tmp_path, make_config, start):
    """A folder with the checkpoint of step 3, and its state."""
    _, state = start(make_config(mesh={"data": 2, "fsdp": 2, "tensor": 2}))
    with Checkpointer(tmp_path / "checkpoints", keep=2) as checkpointer:
        checkpointer.save(3, state, PROGRESS)
    return tmp_path / "checkpoints", state


@pytest.fixture
def restore(architecture, make_config, start):
    def run(folder, *, mesh, step=None):
        config = make_config(mesh=mesh)
        devices_mesh, _ = start(config)
        target = abstract(architecture, make_optimizer(config.optimizer), mesh=devices_mesh)
        with Checkpointer(folder, keep=2) as checkpointer:
            return checkpointer.restore(target, step=step)

    return run


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 2, 1), (1, 8, 1), (2, 2, 2)])
def test_a_sharded_state_comes_back_bit_for_bit_on_another_mesh(saved, restore, axes):
    folder, state = saved
    restored, progress = restore(folder, mesh=dict(zip(("data", "fsdp", "tensor"), axes, strict=True)))
    assert progress == PROGRESS
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for name, leaf in named_leaves(restored).items():
        np.testing.assert_array_equal(leaf, named_leaves(state)[name])
        assert len(leaf.sharding.device_set) == np.prod(axes)


def test_a_resumed_run_ends_with_the_bits_of_one_never_stopped(tmp_path, make_config, start, architecture, batch):
    config = make_config()
    mesh, state = start(config)
    update = make_update(config, architecture, mesh, loss_name="dapo")
    target = abstract(architecture, make_optimizer(config.optimizer), mesh=mesh)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        state, _ = update(state, batch, 2)
        checkpointer.save(1, state, {})
        state, metrics = update(state, batch, 1)
        resumed, _ = checkpointer.restore(target, step=1)
    resumed, resumed_metrics = update(resumed, batch, 1)
    assert resumed_metrics == metrics
    for name, leaf in named_leaves(resumed).items():
        np.testing.assert_array_equal(leaf, named_leaves(state)[name])


def test_saving_does_not_see_updates_that_come_after(tmp_path, make_config, start, architecture, batch):
    """The state is donated to the next update while Orbax still writes."""
    config = make_config()
    mesh, state = start(config)
    before = jax.device_get(named_leaves(state))
    target = abstract(architecture, make_optimizer(config.optimizer), mesh=mesh)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(0, state, {})
        jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state))
        restored, _ = checkpointer.restore(target, step=0)
    for name, leaf in named_leaves(restored).items():
        np.testing.assert_array_equal(leaf, before[name])


def test_only_the_newest_are_kept_and_a_step_is_saved_once(tmp_path, make_config, start):
    _, state = start(make_config())
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (1, 2, 3, 3):
            checkpointer.save(step, state, {"step": step})
        checkpointer.wait()
        assert checkpointer.latest_step() == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_no_checkpoint_is_an_error_that_names_the_folder(tmp_path, restore):
    with pytest.raises(UserError, match=f"no complete checkpoint in {tmp_path}"):
        restore(tmp_path, mesh={})


@pytest.mark.parametrize("damage", ["truncate", "delete", "progress"])
def test_a_damaged_checkpoint_is_an_error_of_one_line_that_names_the_folder(saved, restore, damage):
    folder, _ = saved
    largest = max((p for p in (folder / "3" / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if damage == "truncate":
        for file in (p for p in (folder / "3" / "state").rglob("d/*") if p.is_file()):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "delete":
        largest.unlink()
    else:
        next(p for p in (folder / "3" / "progress").rglob("*") if p.is_file()).write_text('{"step": ')
    with pytest.raises(UserError, match=str(folder / "3")) as caught:
        restore(folder, mesh={})
    assert "\n" not in str(caught.value)


def test_an_unfinished_checkpoint_is_not_there(saved, restore):
    folder, _ = saved
    (folder / "3").rename(folder / "3.orbax-checkpoint-tmp")
    with pytest.raises(UserError, match="no complete checkpoint"):
        restore(folder, mesh={})
