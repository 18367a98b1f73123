"""Checkpoints: what was saved comes back, on any mesh, or the folder is named."""

import math
import resource
import threading
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.training import checkpoint_folder
from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.state import TrainState, abstract, named_leaves
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


def small_state(number: int) -> TrainState:
    """A state of one array and its moment."""
    arrays = {"w": jnp.full((16, 4), number, jnp.float32)}
    return TrainState(cast(Any, arrays), {"mu": arrays}, jnp.int32(number))


def abstract_of(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def save_all(folder, scores: dict[int, float | None], **options) -> None:
    with Checkpointer(folder, **options) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(step, small_state(step), {"step": step}, pass_at_1=score)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def truncate(folder) -> None:
    """Cuts the largest array file of a checkpoint."""
    file = max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])


def test_weights_and_moments_go_from_8_devices_to_2_to_1_bit_for_bit(tmp_path, make_config, start, restore):
    _, state = start(make_config(mesh={"data": 2, "fsdp": 2, "tensor": 2}))
    rng = np.random.default_rng(0)
    random = [rng.normal(size=leaf.shape).astype(leaf.dtype) for leaf in jax.tree.leaves(state)]
    state = jax.tree.map(
        lambda leaf, value: jax.device_put(value, leaf.sharding),
        state,
        jax.tree.unflatten(jax.tree.structure(state), random),
    )
    wanted = {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}
    assert any("/mu/" in name for name in wanted) and any("/nu/" in name for name in wanted)
    for step, devices in enumerate((2, 1), start=1):
        with Checkpointer(tmp_path, keep=1) as checkpointer:
            checkpointer.save(step, state, {})
        state, _ = restore(tmp_path, mesh={"data": 1, "fsdp": devices, "tensor": 1})
        for name, leaf in named_leaves(state).items():
            assert len(leaf.sharding.device_set) == devices
            np.testing.assert_array_equal(leaf, wanted[name])


@pytest.mark.parametrize(
    ("scores", "keep_best", "left"),
    [
        ({1: 0.5, 2: 0.1, 3: 0.2, 4: 0.1}, 1, [1, 4]),
        ({1: 0.5, 2: 0.6, 3: 0.2, 4: 0.1}, 2, [1, 2, 4]),
        ({1: None, 2: None, 3: 0.2, 4: None}, 2, [3, 4]),
        ({1: math.nan, 2: 0.0, 3: math.nan, 4: None}, 1, [2, 4]),
        ({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.1}, 1, [3, 4]),
        ({1: 0.5, 2: 0.1, 3: 0.2, 4: 0.9}, 1, [4]),
        ({1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8}, 0, [4]),
    ],
)
def test_the_newest_and_the_best_measured_are_kept_and_of_equal_ones_the_newest(tmp_path, scores, keep_best, left):
    save_all(tmp_path, scores, keep=1, keep_best=keep_best)
    assert names(tmp_path) == [str(step) for step in left]


def test_a_resumed_run_knows_how_good_the_earlier_ones_were(tmp_path):
    save_all(tmp_path, {1: 0.5, 2: 0.2}, keep=1, keep_best=1)
    save_all(tmp_path, {3: 0.3, 4: 0.4}, keep=1, keep_best=1)
    assert names(tmp_path) == ["1", "4"]
    with Checkpointer(tmp_path, keep=1, read_only=True) as checkpointer:
        assert (checkpointer.latest_step(), checkpointer.complete_steps()) == (4, [1, 4])
    assert checkpoint_folder.best(checkpoint_folder.complete_scores(tmp_path), number=1) == [1]


def test_without_a_measured_one_none_is_best(tmp_path):
    save_all(tmp_path, {1: None}, keep=1, keep_best=1)
    assert checkpoint_folder.best(checkpoint_folder.complete_scores(tmp_path), number=1) == []


@pytest.mark.parametrize("lost", ["files.json", "_CHECKPOINT_METADATA", "state/_METADATA", "progress/metadata", "cut"])
def test_a_damaged_newest_one_is_passed_over_told_and_set_aside_and_its_step_is_saved_again(tmp_path, lost):
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    if lost == "cut":
        truncate(tmp_path / "2")
    else:
        (tmp_path / "2" / lost).unlink()
    told = []
    with Checkpointer(tmp_path, keep=3, say=told.append) as checkpointer:
        assert checkpointer.complete_steps() == [1] and checkpointer.latest_step() == 1
        state, progress = checkpointer.restore(abstract_of(small_state(0)), step=None)
        assert (int(state.update_count), progress) == (1, {"step": 1})
        checkpointer.save(2, small_state(22), {"step": 2})
    assert len(told) == 1 and str(tmp_path / "2") in told[0] and "step 1 is used" in told[0]
    assert told[0].endswith(f"the damaged one is now {tmp_path / '2.damaged'}") and "\n" not in told[0]
    assert names(tmp_path) == ["1", "2", "2.damaged"]
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        assert int(checkpointer.restore(abstract_of(small_state(0)), step=None)[0].update_count) == 22


def test_a_damaged_one_neither_counts_among_those_kept_nor_is_deleted(tmp_path):
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    truncate(tmp_path / "2")
    save_all(tmp_path, {3: None}, keep=2)
    assert names(tmp_path) == ["1", "2", "3"]


def test_array_bytes_that_changed_in_place_are_found_by_restoring_and_passed_over(tmp_path):
    """Lengths are right, so only reading can tell."""
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    for file in (p for p in (tmp_path / "2" / "state").rglob("d/*") if p.is_file()):
        file.write_bytes(bytes(file.stat().st_size))
    with Checkpointer(tmp_path, keep=3, say=lambda _: None) as checkpointer:
        state, _ = checkpointer.restore(abstract_of(small_state(0)), step=None)
    assert int(state.update_count) == 1


def test_a_damaged_one_asked_for_by_its_step_is_an_error_even_if_another_is_whole(tmp_path):
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    truncate(tmp_path / "2")
    with Checkpointer(tmp_path, keep=3) as checkpointer, pytest.raises(UserError, match=str(tmp_path / "2")) as caught:
        checkpointer.restore(abstract_of(small_state(0)), step=2)
    assert "\n" not in str(caught.value) and " of " in str(caught.value)


def test_another_model_is_an_error_and_nothing_is_set_aside(tmp_path):
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    before = snapshot(tmp_path)
    wrong = TrainState(cast(Any, {"v": jnp.zeros(3)}), {}, jnp.int32(0))
    with Checkpointer(tmp_path, keep=3) as checkpointer, pytest.raises(UserError, match="of another model"):
        checkpointer.restore(abstract_of(wrong), step=None)
    assert snapshot(tmp_path) == before


def test_a_reader_of_a_running_run_changes_nothing_but_finds_the_newest_whole_one(tmp_path):
    save_all(tmp_path, {1: None, 2: None}, keep=3)
    truncate(tmp_path / "2")
    (tmp_path / "3.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    before, told = snapshot(tmp_path), []
    with Checkpointer(tmp_path, keep=1, read_only=True, say=told.append) as checkpointer:
        state, _ = checkpointer.restore(abstract_of(small_state(0)), step=None)
    assert int(state.update_count) == 1 and len(told) == 1
    assert snapshot(tmp_path) == before


def test_a_folder_with_nothing_but_damaged_ones_is_not_empty(tmp_path):
    """So that a resumed run does not begin anew for want of a whole one."""
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert checkpointer.is_empty()
    save_all(tmp_path, {1: None}, keep=1)
    truncate(tmp_path / "1")
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert not checkpointer.is_empty() and checkpointer.latest_step() is None
        with pytest.raises(UserError, match=f"checkpoint {tmp_path / '1'} is damaged"):
            checkpointer.restore(abstract_of(small_state(0)), step=None)


def test_a_reader_makes_no_folder(tmp_path):
    with Checkpointer(tmp_path / "none", keep=1, read_only=True) as checkpointer:
        assert checkpointer.latest_step() is None
    assert not (tmp_path / "none").exists()


def test_a_step_that_is_being_written_is_not_complete_yet_and_the_older_one_is_still_there(tmp_path, monkeypatch):
    """The write is held right before the folder gets its name."""
    held, reached = threading.Event(), threading.Event()

    def hold(folder, *, pass_at_1):
        reached.set()
        assert held.wait(timeout=60)
        write_inventory(folder, pass_at_1=pass_at_1)

    write_inventory = checkpoint_folder.write_inventory
    save_all(tmp_path, {1: None}, keep=1)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        monkeypatch.setattr(checkpoint_folder, "write_inventory", hold)
        checkpointer.save(2, small_state(2), {})
        assert reached.wait(timeout=60)
        assert checkpointer.busy() and checkpointer.complete_steps() == [1]
        checkpointer.check()
        held.set()
        checkpointer.wait()
        assert not checkpointer.busy() and checkpointer.complete_steps() == [2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the loop that Orbax leaves behind
def test_arrays_are_written_after_save_has_returned(tmp_path):
    """A disk that refuses them is told by the wait for the save, and not by the save."""
    rng = np.random.default_rng(0)
    arrays = {name: jnp.asarray(rng.standard_normal((2**10, 2**10), np.float32)) for name in "abcd"}
    state = TrainState(cast(Any, arrays), {}, jnp.int32(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            checkpointer.save(1, state, {})
            with pytest.raises(UserError, match="File too large"):
                checkpointer.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_going_back_to_a_step_sets_later_ones_aside_and_their_steps_are_saved_again(tmp_path):
    save_all(tmp_path, {1: None, 2: None, 3: None}, keep=9)
    told = []
    with Checkpointer(tmp_path, keep=9, say=told.append) as checkpointer:
        state, progress = checkpointer.restore(abstract_of(small_state(0)), step=1)
        assert (int(state.update_count), progress, checkpointer.latest_step()) == (1, {"step": 1}, 1)
        checkpointer.save(2, small_state(22), {"step": 2})
    assert names(tmp_path) == ["1", "2", "2.aside", "3.aside"]
    assert len(told) == 2 and all("going on from step 1" in line for line in told)
    with Checkpointer(tmp_path, keep=9) as checkpointer:
        assert int(checkpointer.restore(abstract_of(small_state(0)), step=None)[0].update_count) == 22


def test_a_step_that_cannot_be_had_is_told_with_those_that_can(tmp_path):
    save_all(tmp_path, {1: None, 2: None, 4: None}, keep=9)
    truncate(tmp_path / "4")
    with Checkpointer(tmp_path, keep=9) as checkpointer:
        with pytest.raises(UserError, match=r"no checkpoint of step 3 in .*; there are whole ones of step 1, 2"):
            checkpointer.restore(abstract_of(small_state(0)), step=3)
        with pytest.raises(UserError, match=r"4 is damaged .* there are whole ones of step 1, 2: --resume-step 2"):
            checkpointer.restore(abstract_of(small_state(0)), step=4)
    assert names(tmp_path) == ["1", "2", "4"]
