"""`bench.py export` and `convert`: contenders write the same bytes, ratios are of GB/s, memory of who converts."""

import argparse
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.weights import convert, export
from nouscoder_jax.bench.weights.convert import FROM_HF, TO_HF
from nouscoder_jax.bench.weights.export import CHECK, CP, EXPORT, READY
from nouscoder_jax.bench.weights.random_folder import hash_of, write_random
from nouscoder_jax.config import UserError
from nouscoder_jax.model.hf_files import read_files
from nouscoder_jax.planning.sizes import find_architecture, parameter_count


def bench(module, *arguments) -> int:
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    return module.run(parser.parse_args(arguments))


def contender(name, speeds, peaks=(1.0, 1.0, 1.0)):
    found = [{"speed": s, "cpu_s_per_work": 1.0, "peak_mib": p} for s, p in zip(speeds, peaks, strict=True)]
    return Contender(name=name, turn=dict, rounds=found)


def test_all_contenders_write_the_same_files(tmp_path):
    contenders = export.make_contenders(export.architecture_of(num_layers=1, tiny=True), tmp_path)
    for one in contenders:
        one.turn()
    files = [sorted((tmp_path / name).glob("*.safetensors")) for name in (EXPORT, CP, READY)]
    wanted, *others = [[(file.name, file.read_bytes()) for file in found] for found in files]
    assert wanted and all(other == wanted for other in others)


def test_the_default_model_has_two_gigabytes():
    options = argparse.ArgumentParser()
    export.add_options(options)
    architecture = export.architecture_of(num_layers=options.parse_args([]).layers, tiny=False)
    shards = export.plan_files(architecture, dtype="bfloat16", num_processes=1)
    assert sum(shard.num_bytes for shard in shards) / 1e9 == pytest.approx(2.03, abs=0.01)


def test_targets_of_the_export_are_of_the_median_ratio_within_a_round():
    speeds = {CP: [4.0, 2.0, 1.0], EXPORT: [2.0, 2.0, 0.8], READY: [2.0, 4 / 3, 0.5]}
    found = export.report([contender(*one) for one in speeds.items()], {})
    assert [(target.got, target.met) for target in found.targets] == [(0.8, True), (0.5, False)]


def test_a_quick_export_writes_every_round_and_leaves_nothing(tmp_path):
    (tmp_path / "disk").mkdir()
    assert bench(export, "--quick", "--folder", str(tmp_path / "disk"), "--out", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    found = [(one["name"], len(one["rounds"])) for one in written["contenders"]]
    assert found == [(name, 1) for name in (CP, EXPORT, READY, CHECK)]
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize("module", [export, convert])
def test_a_folder_that_is_not_there_is_told_in_one_line(module):
    with pytest.raises(UserError, match="--folder got no/such/folder"):
        bench(module, "--folder", "no/such/folder", "--quick")


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("NOUSCODER_SGLANG_PYTHON"), reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"
)
def test_a_server_takes_the_weights_while_it_generates(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root / "tests/quick_start"))
    out = tmp_path / "out.json"
    python = os.environ["NOUSCODER_SGLANG_PYTHON"]
    assert bench(export, "--quick", "--folder", str(tmp_path), "--sglang-python", python, "--out", str(out)) == 0
    reload = json.loads(out.read_text())["reload"]
    assert reload["tokens_per_s"] > 0 and reload["reload_s"] > 0
    assert reload["tokens_per_s_export"] > 0  # it goes on with the old weights until the new files are complete


def test_random_weights_are_finite_and_of_the_whole_architecture(root, tmp_path):
    architecture = find_architecture(str(root / "configs/tiny/policy"))
    num_bytes = write_random(tmp_path / "hf", architecture)
    assert read_files(tmp_path / "hf", architecture).num_bytes == num_bytes
    tensors = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    numbers = np.concatenate([one.reshape(-1) for one in tensors.values()])
    assert numbers.dtype == ml_dtypes.bfloat16 and numbers.size == parameter_count(architecture)
    assert np.isfinite(numbers.astype(np.float32)).all()
    # 15 of 16 bits are random: of 16,384 pairs of sign and exponent's rest, all come in 1.3 million draws
    assert len(np.unique(numbers.view(np.uint16) >> 4)) == 2048


def test_a_hash_tells_names_and_bytes_apart(tmp_path):
    for name, file, data in (("a", "x", b"1"), ("b", "x", b"1"), ("c", "y", b"1"), ("d", "x", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(data)
    first, same, renamed, changed = (hash_of(tmp_path / name) for name in "abcd")
    assert first == same and len({first, renamed, changed}) == 3


def test_targets_of_the_conversion_are_of_the_median_ratio_and_the_highest_peak():
    contenders = []
    for name, speeds in ((FROM_HF, [0.5, 0.5, 0.25]), (TO_HF, [0.25, 1.0, 0.5])):
        contenders.append(contender(f"cp + sync ({name})", [1.0, 0.5, 0.5]))
        contenders.append(contender(name, speeds, [512.0, 7168.0, 1024.0]))
    targets = convert.report(contenders, {}, same=False).targets
    assert [(one.got, one.met) for one in targets] == [
        (0.0, False), (0.5, False), (7.0, False), (1.0, True), (7.0, False)
    ]  # fmt: skip


def test_a_quick_conversion_brings_every_file_back_and_leaves_nothing(tmp_path):
    (tmp_path / "disk").mkdir()
    assert bench(convert, "--quick", "--folder", str(tmp_path / "disk"), "--out", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    names = ["cp + sync (from-hf)", "from-hf", "cp + sync (to-hf)", "to-hf"]
    assert [(one["name"], len(one["rounds"])) for one in written["contenders"]] == [(name, 1) for name in names]
    assert written["targets"][0]["met"]
    peaks = [one["median"]["peak_mib"] for one in written["contenders"] if one["name"] in (FROM_HF, TO_HF)]
    assert all(50 < peak < 2000 for peak in peaks)
    assert not list((tmp_path / "disk").iterdir())


def test_a_conversion_that_fails_is_told_and_a_size_that_there_is_not(tmp_path):
    with pytest.raises(UserError, match=r"cp \+ sync \(from-hf\) failed"):
        convert.measure(FROM_HF, tmp_path / "none", tmp_path, gigabytes=1.0, num_rounds=1, cold=False)
    with pytest.raises(UserError, match="Qwen3-15B"):
        bench(convert, "--size", "15B")


@pytest.mark.slow
def test_less_than_a_layer_of_memory_is_taken_whatever_the_size(root, tmp_path):
    """Qwen3-0.6B's shape: a layer is 30 MiB, the embedding 297, all of it 1,137; the tiny policy is 2 MiB."""
    peaks = {}
    for name, path in (("tiny", str(root / "configs/tiny/policy")), ("0.6B", "Qwen/Qwen3-0.6B")):
        folder = tmp_path / name
        folder.mkdir()
        write_random(folder / "hf", find_architecture(path))
        wanted, turns = hash_of(folder / "hf"), {"gigabytes": 1.0, "num_rounds": 1, "cold": False}
        results = convert.measure(FROM_HF, folder / "hf", folder, **turns)
        results += convert.measure(TO_HF, folder / FROM_HF, folder, **turns)
        assert hash_of(folder / TO_HF) == wanted
        peaks[name] = {one.name: one.median("peak_mib") for one in results}
    for direction in (FROM_HF, TO_HF):
        assert peaks["0.6B"][direction] - peaks["tiny"][direction] < 30
