"""`bench.py convert`: a folder as a download has it, two directions beside cp, memory of the process that converts."""

import argparse
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nouscoder_jax.bench.weights import convert
from nouscoder_jax.bench.weights.convert import FROM_HF, TO_HF, Result
from nouscoder_jax.bench.weights.random_folder import hash_of, write_random
from nouscoder_jax.config import UserError
from nouscoder_jax.model.hf_files import read_files
from nouscoder_jax.planning.sizes import find_architecture, parameter_count


def silent(_):
    """Takes what is said."""


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    convert.add_options(parser)
    return convert.run(parser.parse_args(arguments))


def test_random_weights_are_finite_and_of_the_whole_architecture(root, tmp_path):
    architecture = find_architecture(str(root / "configs/tiny/policy"))
    num_bytes = write_random(tmp_path / "hf", architecture, say=silent)
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


def test_targets_are_of_the_median_ratio_and_the_highest_peak():
    results = []
    for name, wall in ((FROM_HF, [2.0, 2.0, 4.0]), (TO_HF, [4.0, 1.0, 2.0])):
        results.append(Result(name=f"cp + sync ({name})", wall_s=[1.0, 2.0, 2.0], cpu_s=[1.0] * 3, peak_mib=[1.0] * 3))
        results.append(Result(name=name, wall_s=wall, cpu_s=[1.0] * 3, peak_mib=[512.0, 7168.0, 1024.0]))
    assert convert.ratios(results[1], results) == [0.5, 1.0, 0.5]
    targets = convert.report(results, {}, num_bytes=4_000_000_000, same=False).targets
    assert [(one.got, one.met) for one in targets] == [
        (False, False), (0.5, False), (7.0, False), (1.0, True), (7.0, False)
    ]  # fmt: skip


def test_a_quick_run_brings_every_file_back_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    assert bench("--quick", "--folder", str(tmp_path / "disk"), "--out", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(one["name"], len(one["wall_s"])) for one in written["results"]] == [
        ("cp + sync (from-hf)", 1), ("from-hf", 1), ("cp + sync (to-hf)", 1), ("to-hf", 1)
    ]  # fmt: skip
    assert written["targets"][0]["met"]
    assert all(50 < one["peak_mib"][0] < 2000 for one in written["results"] if one["name"] in (FROM_HF, TO_HF))
    assert "target: every file back to the byte >= 1: 1.00 met" in capsys.readouterr().out
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--folder", "no/such/folder", "--quick"], "--folder got no/such/folder"),
        (["--out", "no/such/folder/x.json"], "its folder does not exist"),
        (["--size", "15B"], "Qwen3-15B"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments, told):
    with pytest.raises(UserError, match=told):
        bench(*arguments)


@pytest.mark.slow
def test_less_than_a_layer_of_memory_is_taken_whatever_the_size(root, tmp_path):
    """Qwen3-0.6B's shape: a layer is 30 MiB, the embedding 297, all of it 1,137; the tiny policy is 2 MiB."""
    peaks = {}
    for name, path in (("tiny", str(root / "configs/tiny/policy")), ("0.6B", "Qwen/Qwen3-0.6B")):
        folder = tmp_path / name
        folder.mkdir()
        write_random(folder / "hf", find_architecture(path), say=silent)
        wanted = hash_of(folder / "hf")
        results = convert.measure(FROM_HF, folder / "hf", folder, rounds=1, cold=False, say=silent)
        results += convert.measure(TO_HF, folder / FROM_HF, folder, rounds=1, cold=False, say=silent)
        assert hash_of(folder / TO_HF) == wanted
        peaks[name] = {one.name: one.peak_mib[0] for one in results}
    for direction in (FROM_HF, TO_HF):
        assert peaks["0.6B"][direction] - peaks["tiny"][direction] < 30
