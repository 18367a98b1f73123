"""The host side of a run in a thousand worlds in which everything is late, fails, hangs, and is killed.

One world by number: NOUSCODER_SEED=17 pytest tests/loop/test_simulation.py -k one_world
"""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from simulated import UPDATES, World

from nouscoder_jax.metrics.sinks import read_jsonl
from nouscoder_jax.run_folder import RunFolder


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


@pytest.mark.parametrize("part", range(10))
def test_whatever_is_late_fails_hangs_or_is_killed_nothing_is_lost_or_done_twice(root: Path, tmp_path: Path, part: int):
    ends = []
    for seed in range(part * 10, part * 10 + 10):
        ends += check(seed, tmp_path / str(seed)).ends
    assert ends.count("killed") > 10 and ends.count("finished") == 10


def test_training_does_not_wait_for_a_checkpoint_that_is_still_being_written(tmp_path: Path):
    world = World(1, tmp_path, kills=False, checkpoint_s=10_000.0).run()  # one is due every step
    assert sum("no checkpoint: an earlier one is still being written" in line for line in world.said) == 4
    assert world.ends == ["finished"]


def ends_of(seed: int, tmp_path: Path) -> list[str]:
    """How the sessions of a world ended; the number of one that fails is in its message."""
    try:
        return check(seed, tmp_path / str(seed)).ends
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_worlds(tmp_path: Path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        told = list(pool.map(ends_of, range(1000), [tmp_path] * 1000, chunksize=20))
    ends = [end for ends in told for end in ends]
    assert {"killed", "finished", "EngineError", "OutageError", "UserError"} <= set(ends)


@pytest.mark.skipif("NOUSCODER_SEED" not in os.environ, reason="NOUSCODER_SEED is not set")
def test_one_world(tmp_path: Path):
    print(check(int(os.environ["NOUSCODER_SEED"]), tmp_path).ends)
