"""`bench.py export`: contenders write the same bytes, turns are fair, ratios are of GB/s within a round."""

import argparse
import json
import os
import time

import pytest

from nouscoder_jax.bench.in_turn import Timed
from nouscoder_jax.bench.weights import export
from nouscoder_jax.bench.weights.export import CHECK, CP, EXPORT, READY
from nouscoder_jax.config import UserError


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    export.add_options(parser)
    return export.run(parser.parse_args(arguments))


def test_all_contenders_write_the_on_policy(tmp_path):
    contenders = export.make_contenders(export.architecture_of(num_layers=1, tiny=True), tmp_path, dtype="bfloat16")
    for contender in contenders.values():
        contender()
    files = [sorted((tmp_path / name).glob("*.safetensors")) for name in (EXPORT, CP, READY)]
    wanted, *others = [[(file.name, file.read_bytes()) for file in found] for found in files]
    assert wanted and all(other == wanted for other in others)


def test_the_default_model_has_two_gigabytes():
    options = argparse.ArgumentParser()
    export.add_options(options)
    architecture = export.architecture_of(num_layers=options.parse_args([]).layers, tiny=False)
    shards = export.plan_files(architecture, dtype="bfloat16", num_processes=1)
    assert sum(shard.num_bytes for shard in shards) / 1e9 == pytest.approx(2.03, abs=0.01)
    assert len({shard.writer for shard in shards}) == 4


def test_every_contender_has_its_turn_in_every_round_and_begins_one(tmp_path):
    turns = []
    contenders = {name: lambda name=name: turns.append(name) for name in (CP, EXPORT, READY)}
    results = export.measure(contenders, tmp_path, rounds=3, until=time.monotonic() + 3600, say=lambda text: None)
    assert [len(one.wall_s) for one in results] == [3, 3, 3]
    assert [turns[0], turns[3], turns[6]] == [CP, EXPORT, READY]


def test_no_round_begins_after_the_limit(tmp_path):
    results = export.measure({CP: lambda: None}, tmp_path, rounds=3, until=0.0, say=lambda text: None)
    assert len(results[0].wall_s) == 1


def test_a_ratio_is_of_speed_within_a_round_and_the_target_of_its_median():
    results = [Timed(name=CP, wall_s=[1.0, 2.0, 4.0], cpu_s=[1.0] * 3)]
    results += [Timed(name=EXPORT, wall_s=[2.0, 2.0, 5.0], cpu_s=[3.0] * 3)]
    results += [Timed(name=READY, wall_s=[2.0, 3.0, 4.0], cpu_s=[2.0] * 3)]
    assert export.ratios(results[1], results) == [0.5, 1.0, 0.8]
    found = export.report(results, {}, num_bytes=4_000_000_000)
    assert [(target.got, target.met) for target in found.targets] == [(0.8, True), (2 / 3, False)]
    assert [one["gb_per_s"] for one in found.content["results"]] == [2.0, 2.0, 4 / 3]
    assert [one["cpu_s_per_gb"] for one in found.content["results"]] == [0.25, 0.75, 0.5]


def test_a_quick_run_writes_every_round_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    assert bench("--quick", "--folder", str(tmp_path / "disk"), "--out", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(one["name"], len(one["wall_s"])) for one in written["results"]] == [
        (name, 1) for name in (CP, EXPORT, READY, CHECK)
    ]
    assert "target: export: GB/s / cp's >= 0.8" in capsys.readouterr().out
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--folder", "no/such/folder"], "--folder got no/such/folder"),
        (["--out", "no/such/folder/x.json"], "its folder does not exist"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments, told):
    with pytest.raises(UserError, match=told):
        bench(*arguments)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("NOUSCODER_SGLANG_PYTHON"), reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"
)
def test_a_server_takes_the_weights_while_it_generates(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root / "tests/quick_start"))
    out = tmp_path / "out.json"
    python = os.environ["NOUSCODER_SGLANG_PYTHON"]
    assert bench("--quick", "--folder", str(tmp_path), "--sglang-python", python, "--out", str(out)) == 0
    reload = json.loads(out.read_text())["reload"]
    assert reload["tokens_per_s"] > 0 and reload["reload_s"] > 0
    assert reload["tokens_per_s_export"] > 0  # it goes on with the old weights until the new files are complete
    assert "while it was loaded" in " ".join(capsys.readouterr().out.split())
