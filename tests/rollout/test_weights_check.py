"""What an export holds: layouts, and checksums as SGLang makes them. No server is needed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nouscoder_jax.manifest import FILE_NAME, FileEntry, Manifest, TensorEntry, hash_range, read_header
from nouscoder_jax.rollout.weights_check import check_layout, checksums, gpu_checksum, pick, read_export, sources
from nouscoder_jax.types import EngineError


def write_weights(folder: Path, **tensors) -> Path:
    folder.mkdir()
    save_file(
        tensors or {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, folder / "model.safetensors"
    )
    return folder


def write_manifest(folder: Path) -> Manifest:
    """The manifest of a folder as the trainer writes it."""
    file = folder / "model.safetensors"
    hashes = {place.name: hash_range(file, place.first, place.end) for place in read_header(file)}
    tensors = {
        place.name: TensorEntry(shape=place.shape, dtype=place.dtype, file=file.name, hash=hashes[place.name])
        for place in read_header(file)
    }
    entry = FileEntry(bytes=file.stat().st_size, hash="unread")
    manifest = Manifest(policy_version=3, dtype="float32", files={file.name: entry}, tensors=tensors)
    (folder / FILE_NAME).write_text(manifest.to_json())
    return manifest


def of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def test_the_layout_of_a_folder_is_names_and_shapes(tmp_path):
    assert read_export(write_weights(tmp_path / "w")).layout == {"a": (2, 3), "b": (4,)}


def test_a_torn_file_is_refused_by_name(tmp_path):
    file = write_weights(tmp_path / "w") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"model.safetensors has .* bytes; its header promises"):
        read_export(file.parent)


def test_a_file_without_a_whole_header_is_refused_by_name(tmp_path):
    file = write_weights(tmp_path / "w") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(EngineError, match=r"model.safetensors is not a whole safetensors file"):
        read_export(file.parent)


def test_a_shard_that_is_missing_is_refused_by_name(tmp_path):
    folder = write_weights(tmp_path / "w")
    index = {"weight_map": {"a": "model.safetensors", "c": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EngineError, match=r"other.safetensors is named by the index"):
        read_export(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(EngineError, match="holds no safetensors"):
        read_export(tmp_path)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ({"a": (2,)}, "lacks 1 tensors, the first is b"),
        ({"a": (2,), "b": (3,), "c": (1,)}, "holds 1 tensors that the served model lacks, the first is c"),
        ({"a": (2,), "b": (4,)}, r"has b of shape \(4,\); the served model has \(3,\)"),
    ],
)
def test_another_layout_is_refused_by_tensor(got, message):
    with pytest.raises(EngineError, match=message):
        check_layout(got, {"a": (2,), "b": (3,)}, Path("w"))


def test_weights_that_were_written_again_have_another_digest(tmp_path):
    first = read_export(write_weights(tmp_path / "w", a=np.zeros(4, np.float32)))
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "w" / "model.safetensors")
    assert read_export(tmp_path / "w").digest != first.digest


def test_a_folder_with_a_manifest_has_its_digest_and_its_hashes(tmp_path):
    values = np.arange(4, dtype=np.float32)
    manifest = write_manifest(write_weights(tmp_path / "w", a=values))
    export = read_export(tmp_path / "w")
    assert export.digest == manifest.digest[:16]
    (tmp_path / "w" / "model.safetensors").unlink()  # not needed: the manifest knows the hash of a tensor as it lies
    assert checksums(export, ["a"], dtype="float32", device="cpu") == {"a": of_bytes(values.tobytes())}


def test_a_file_that_is_not_what_the_manifest_says_is_refused_by_name(tmp_path):
    write_manifest(write_weights(tmp_path / "w", a=np.zeros(4, np.float32)))
    save_file({"a": np.zeros(5, np.float32)}, tmp_path / "w" / "model.safetensors")
    with pytest.raises(EngineError, match=r"model.safetensors"):
        read_export(tmp_path / "w")


def test_fused_tensors_are_made_of_their_parts_in_order():
    assert sources("l.0.self_attn.qkv_proj.weight") == tuple(f"l.0.self_attn.{x}_proj.weight" for x in "qkv")
    assert sources("l.0.mlp.gate_up_proj.weight") == ("l.0.mlp.gate_proj.weight", "l.0.mlp.up_proj.weight")
    assert sources("l.0.mlp.down_proj.weight") == ("l.0.mlp.down_proj.weight",)


def test_a_cpu_servers_checksum_is_that_of_the_fused_rows(tmp_path):
    gate, up = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    export = read_export(write_weights(tmp_path / "w", **{"m.gate_proj.weight": gate, "m.up_proj.weight": up}))
    found = checksums(export, ["m.gate_up_proj.weight"], dtype="float32", device="cpu")
    assert found == {"m.gate_up_proj.weight": of_bytes(gate.tobytes() + up.tobytes())}


def test_a_vocabulary_is_padded_with_zeros_to_a_multiple_of_64(tmp_path):
    rows = np.ones((65, 2), np.float32)
    export = read_export(write_weights(tmp_path / "w", **{"lm_head.weight": rows}))
    found = checksums(export, ["lm_head.weight"], dtype="float32", device="cpu")
    assert found == {"lm_head.weight": of_bytes(rows.tobytes() + bytes(63 * 2 * 4))}


def test_float32_is_rounded_to_bfloat16_as_the_server_does(tmp_path):
    import torch

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values[:3] = [1.00390625, 1.01171875, -1.00390625]  # halfway between two bfloat16: ties go to even
    export = read_export(write_weights(tmp_path / "w", a=values))
    rounded = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().tobytes()
    assert checksums(export, ["a"], dtype="bfloat16", device="cpu") == {"a": of_bytes(rounded)}


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (4, "84ec9ef21925a44a"),
        (10, "ca45d4fa6c15a2de"),
        (4 * 8192, "a7c0b352e5389ec4"),
        (4 * 20001 + 2, "5991f20542d23d9a"),
        (4 * 8192 * 5, "eb5d95c431b615fb"),
    ],
)
def test_a_gpu_servers_checksum_is_that_of_sglangs_kernel(num_bytes, expected):
    """The numbers are what SGLang 0.5.23's Triton kernel gives in Triton's interpreter."""
    data = (np.arange(num_bytes, dtype=np.int64) * 7919 % 251).astype(np.uint8)
    assert gpu_checksum(data) == expected


def test_every_tensor_has_its_turn_to_be_compared_with_the_files(tmp_path):
    tensors = {f"t{i}": np.zeros(i + 1, np.float32) for i in range(7)}
    export = read_export(write_weights(tmp_path / "w", **tensors))
    served = [*tensors, "of another kind"]
    turns = [pick(export, served, budget_bytes=32, turn=turn) for turn in range(len(tensors))]
    assert {name for names in turns for name in names} == set(tensors)
    assert all(sum(tensors[name].nbytes for name in names) <= 32 for names in turns)
    assert pick(export, served, budget_bytes=10**6, turn=5) == sorted(tensors)
