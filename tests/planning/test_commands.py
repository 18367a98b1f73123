"""What a plan tells to type."""

import shlex

import pytest
from small import change

from nouscoder_jax import cli
from nouscoder_jax.planning import commands
from nouscoder_jax.planning.meshes import find_meshes


def run_of(dapo, a, *, kind, train, generate, engine_gpus=1):
    own = commands.sized(dapo, find_meshes(a, train)[0], rows_per_gpu=1)
    return commands.placed(
        own, kind=kind, generate_gpus=generate, engine_gpus=engine_gpus,
        trainer_memory_fraction=0.413, engine_memory_fraction=0.527,
    )  # fmt: skip


def options_of(line):
    words = shlex.split(line)
    return words[words.index("--config") + 2 :]


def test_on_one_machine_the_run_starts_its_servers(dapo, qwen3_14b):
    planned = run_of(dapo, qwen3_14b, kind="split", train=4, generate=4, engine_gpus=2)
    (line,) = commands.lines(dapo, planned, config_path="configs/dapo.py", generate_gpus=4)
    assert line.startswith("python scripts/train.py --config configs/dapo.py ")
    again = cli.apply_overrides(dapo, options_of(line))
    assert again == planned and (again.server.num_servers, again.server.tensor) == (2, 2)
    assert (again.min_gpus, again.mesh.num_processes, again.mesh.fsdp) == (4, 1, 4)


def test_on_several_machines_servers_are_started_on_theirs(dapo, qwen3_14b):
    planned = run_of(dapo, qwen3_14b, kind="split", train=16, generate=32)
    serve, train = commands.lines(dapo, planned, config_path="configs/dapo.py", generate_gpus=32)
    assert serve.startswith("on each of 4 that generate: python scripts/serve.py --config configs/dapo.py ")
    assert train.startswith("on each of 2 that train: python scripts/train.py --config configs/dapo.py ")
    assert "--rollout.urls http://SERVER:PORT" in train and "--mesh.coordinator-address HEAD:PORT" in train
    assert cli.apply_overrides(dapo, options_of(serve)).server.num_servers == 8


def test_shares_of_memory_are_rounded_so_that_both_fit(dapo, qwen3_14b):
    server = run_of(dapo, qwen3_14b, kind="colocated", train=8, generate=8).server
    assert (server.trainer_memory_fraction, server.memory_fraction) == (0.42, 0.52)


def test_what_a_config_refuses_is_refused(dapo, qwen3_14b):
    crowded = change(dapo, experience={"updates_per_batch": 1})
    own = commands.sized(crowded, find_meshes(qwen3_14b, 8)[0], rows_per_gpu=1)
    with pytest.raises(ValueError, match="take 150% of a shared GPU"):
        commands.placed(
            own, kind="colocated", generate_gpus=8, engine_gpus=1,
            trainer_memory_fraction=0.9, engine_memory_fraction=0.6,
        )  # fmt: skip
