"""The host side of a run in a thousand worlds in which everything is late, fails, hangs, and is killed.

One world by number: NOUSCODER_SEED=17 pytest tests/loop/test_simulation.py -k one_world
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from simulated import UPDATES, World

from nouscoder_jax.loop.groups import Collected
from nouscoder_jax.loop.progress import Progress
from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import ConservationError


def check(seed: int, folder: Path) -> World:
    """One world, and on-policy the same one without kills: everything that must hold."""
    world = World(seed, folder / "killed", kills=True).run()
    config = world.config
    told = f"seed {seed}, sessions ended: {world.ends}"
    lines = read_jsonl(RunFolder(path=world.path).metrics)
    assert [line["step"] for line in lines] == list(range(config.num_steps + 1)), told
    last = lines[-1]
    parts = [last[name] or 0 for name in ("rollouts/trained", "rollouts/filtered", "rollouts/quarantined")]
    assert last["rollouts/drawn"] == sum(parts) + (last["rollouts/in_flight"] or 0), told
    rollouts = [
        json.loads(line)
        for path in sorted(RunFolder(path=world.path).rollouts.iterdir())
        for line in path.read_text().splitlines()
    ]
    places = [(line["group_id"], line["sample_index"]) for line in rollouts]
    assert len(set(places)) == len(places) == sum(parts), f"rollouts lost or twice; {told}"
    assert max(world.ages, default=0) <= config.rollout.max_staleness * UPDATES, f"too old; {told}"
    assert [path.name for path in RunFolder(path=world.path).journal.glob("batch-*")] == [], told
    if config.rollout.max_staleness == 0:
        whole = World(seed, folder / "whole", kills=False).run()
        assert whole.states == world.states, told
        assert {(line["group_id"], line["sample_index"]) for line in rollouts} == set(places)
        same = "rollouts/", "reward/", "groups/", "update/", "held_out/", "completion_tokens/"
        for one, other in zip(lines, read_jsonl(RunFolder(path=whole.path).metrics), strict=True):
            assert {k: v for k, v in one.items() if k.startswith(same)} == {
                k: v for k, v in other.items() if k.startswith(same)
            }, told
    return world


@pytest.mark.parametrize("part", range(4))
def test_whatever_is_late_fails_hangs_or_is_killed_nothing_is_lost_or_done_twice(root: Path, tmp_path: Path, part: int):
    ends = []
    for seed in range(part * 10, part * 10 + 10):
        ends += check(seed, tmp_path / str(seed)).ends
    assert ends.count("killed") > 10 and ends.count("finished") == 10


def test_training_does_not_wait_for_a_checkpoint_that_is_still_being_written(tmp_path: Path):
    world = World(1, tmp_path, kills=False, checkpoint_s=10_000.0).run()  # one is due every step
    lines, best, left_out = read_jsonl(RunFolder(path=world.path).metrics), -1.0, []
    for line in lines[:-1]:
        if line.get("held_out/pass_at_1", -1.0) > best:
            best = line["held_out/pass_at_1"]  # its weights are kept, which no journal has
        else:
            left_out.append(line["step"])
    said = [line for line in world.said if "no checkpoint: an earlier one is still being written" in line]
    assert [float(line.split()[1].rstrip(":")) for line in said] == left_out and len(left_out) >= 2
    assert world.ends == ["finished"]


def test_the_best_measured_weights_are_kept_however_long_an_earlier_checkpoint_takes(tmp_path: Path):
    for seed in range(1, 40, 9):  # a checkpoint is due every step, and takes longer than one
        world = World(seed, tmp_path / str(seed), kills=False, checkpoint_s=200.0).run()
        lines = read_jsonl(RunFolder(path=world.path).metrics)
        measured = {line["step"]: line["held_out/pass_at_1"] for line in lines if "held_out/pass_at_1" in line}
        best = max(measured, key=lambda step: (measured[step], -step))
        assert f"{best:.0f}.json" in {path.name for path in RunFolder(path=world.path).checkpoints.iterdir()}, measured


def test_a_rollout_that_is_lost_ends_the_run_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    count = Progress.count

    def lossy(self: Progress, collected: Collected, *, group_size: int) -> None:
        lost = collected.groups[1:] if collected.step == 2 else collected.groups
        count(self, dataclasses.replace(collected, groups=lost), group_size=group_size)

    monkeypatch.setattr(Progress, "count", lossy)
    world = World(1, tmp_path, kills=False)
    with pytest.raises(ConservationError, match=r"step 2: \d+ rollouts were drawn, but "):
        world.run()
    lines = read_jsonl(RunFolder(path=world.path).metrics)
    assert [line["step"] for line in lines] == [0, 1]


def ends_of(seed: int, tmp_path: Path) -> list[str]:
    """How the sessions of a world ended; the number of one that fails is in its message."""
    try:
        return check(seed, tmp_path / str(seed)).ends
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "number", [pytest.param(1000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.soak)]
)
def test_a_thousand_worlds(number: int):
    """In memory where there is a folder for that: most of a world's time is waiting for a disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=memory) as folder, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        told = list(pool.map(ends_of, range(number), [Path(folder)] * number, chunksize=20))
    ends = [end for ends in told for end in ends]
    assert {"killed", "finished", "EngineError", "OutageError", "UserError"} <= set(ends)


@pytest.mark.skipif("NOUSCODER_SEED" not in os.environ, reason="NOUSCODER_SEED is not set")
def test_one_world(tmp_path: Path):
    print(check(int(os.environ["NOUSCODER_SEED"]), tmp_path).ends)
