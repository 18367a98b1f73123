"""Checkpoints: a killed process, a full disk or a missing permission costs the save under way and nothing else."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import checkpoint_process

from nouscoder_jax.training.checkpoint import Checkpointer
from nouscoder_jax.training.state import named_leaves

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, checkpoint_process.__file__]


def check_newest(directory: Path) -> int:
    """The newest complete step, whose values are those that were saved at that step."""
    wanted = named_leaves(checkpoint_process.state_of(1))
    with Checkpointer(directory, keep=2, read_only=True) as checkpointer:
        step = checkpointer.latest_step()
        state, progress = checkpointer.restore(
            jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                checkpoint_process.state_of(1),
            ),
            step=None,
        )
    assert step is not None and progress == {"step": step}
    wanted = named_leaves(checkpoint_process.state_of(step))
    for name, leaf in named_leaves(state).items():
        np.testing.assert_array_equal(leaf, wanted[name])
    return step


def kill_during_save(directory: Path, *, after_s: float, at: str) -> None:
    """Starts a process that saves, and kills it `after_s` into its second save, if it does not kill itself."""
    process = subprocess.Popen([*COMMAND, "for_ever", str(directory), at], env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        process.stdout.readline()
        if not at:
            time.sleep(after_s)
            process.kill()
        assert process.wait(timeout=120) == -signal.SIGKILL
    finally:
        process.kill()
        process.stdout.close()


def test_a_process_killed_at_any_moment_of_a_save_leaves_the_newest_complete_step_as_it_was_saved(tmp_path):
    directory = tmp_path / "checkpoints"
    seen = 0
    for after_s in (0.0, 0.01, 0.02, 0.04, 0.06, 0.09, 0.12):
        kill_during_save(directory, after_s=after_s, at="")
        step = check_newest(directory)
        assert step > seen, f"nothing was saved before the kill after {after_s} s"
        seen = step


@pytest.mark.parametrize("at", ["rename 4", "rename 6", "unlink 3"])
def test_a_process_killed_at_the_last_rename_or_while_it_deletes_an_old_one_leaves_the_newest_whole(tmp_path, at):
    """A save renames its two items and then the folder; with two kept, the third save deletes the first."""
    directory = tmp_path / "checkpoints"
    kill_during_save(directory, after_s=0.0, at=at)
    found = {path.name for path in directory.iterdir()}
    assert check_newest(directory) == (3 if at == "unlink 3" else 1)
    assert {path.name for path in directory.iterdir()} == found, "a reader changes nothing"
    with Checkpointer(directory, keep=2) as checkpointer:
        left = [str(step) for step in checkpointer.complete_steps()]
    assert sorted(path.name for path in directory.iterdir()) == left
    assert len(found) > len(left)


def refused(directory: Path, how: str) -> list[str]:
    """What the process printed in order: the error, whether it closed, its threads, the step that failed."""
    done = subprocess.run(
        [*COMMAND, "until_refused", str(directory), how], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ERROR" not in done.stderr, done.stderr[-3000:]
    return done.stdout.splitlines()


@contextlib.contextmanager
def small_disk(folder: Path, *, mib: int):
    """A file system of its own; skips where none can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_refusal(directory: Path, lines: list[str], *, kept: Path, why: str, helps: str) -> None:
    told, closed, threads, failed = lines
    newest = check_newest(kept)
    assert told == (
        f"the checkpoint of step {failed} could not be written to {directory} ({why}); the newest complete one, "
        f"step {newest}, is kept; {helps} and go on with --resume"
    )
    assert newest == int(failed) - 1
    assert closed == "closed"
    assert threads == "['MainThread']"
    assert [path.name for path in kept.iterdir()] == [str(newest)], "the room of the failed one is given back"


def test_a_full_disk_leaves_the_previous_checkpoint_and_says_so(tmp_path):
    with small_disk(tmp_path / "disk", mib=int(checkpoint_process.MIB * 1.7)) as disk:
        directory = disk / "checkpoints"
        check_refusal(
            directory, refused(directory, "full"), kept=directory, why="No space left on device", helps="make room"
        )


def test_a_write_refused_halfway_leaves_the_previous_checkpoint_and_says_so(tmp_path):
    directory = tmp_path / "checkpoints"
    check_refusal(
        directory, refused(directory, "limit"), kept=directory, why="File too large", helps="allow larger files"
    )


def test_a_missing_permission_leaves_the_previous_checkpoint_and_says_so():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o755)
        directory = Path(folder) / "checkpoints"
        check_refusal(
            directory,
            refused(directory, "permission"),
            kept=directory,
            why="Permission denied",
            helps="mend the folder's permissions",
        )


def test_a_folder_that_turns_into_a_file_is_told_in_one_line(tmp_path):
    directory = tmp_path / "checkpoints"
    told, closed, threads, _ = refused(directory, "file")
    assert told == (
        f"the checkpoint of step 3 could not be written to {directory} (Not a directory); there is no complete one; "
        "mend that and go on with --resume"
    )
    assert (closed, threads) == ("closed", "['MainThread']")
    assert check_newest(tmp_path / "moved") == 2
