"""The manifest: its hashes are those of the bytes, its digest names the weights, damage is named by file and tensor."""

import dataclasses
import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import (
    FILE_NAME,
    FileEntry,
    Manifest,
    TensorEntry,
    check_files,
    file_hash,
    hash_range,
    read_header,
    read_manifest,
)

FILE = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A folder with two tensors in a file, a text file, and a manifest made from nothing but these."""
    tensors = {"norm": np.arange(8, dtype=np.float32).astype(ml_dtypes.bfloat16), "head": np.ones((2, 3), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    content = (tmp_path / FILE).read_bytes()
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    places = read_header(tmp_path / FILE)
    hashes = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    manifest = Manifest(
        policy_version=3,
        dtype="bfloat16",
        files={
            FILE: FileEntry(bytes=len(content), hash=file_hash(header, [hashes[place.name] for place in places])),
            "config.json": FileEntry(bytes=23, hash=hashlib.sha256(b'{"model_type": "qwen3"}').hexdigest()),
        },
        tensors={
            name: TensorEntry(shape=tensor.shape, dtype=str(tensor.dtype), file=FILE, hash=hashes[name])
            for name, tensor in tensors.items()
        },
    )
    (tmp_path / FILE_NAME).write_text(manifest.to_json())
    return tmp_path


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_manifest_reads_back_as_it_was_written(folder):
    manifest = read_manifest(folder)
    assert manifest.to_json() == (folder / FILE_NAME).read_text()
    assert manifest.tensors["head"].shape == (2, 3)
    assert json.loads(manifest.to_json())["format"] == 1


@pytest.mark.parametrize("contents", [False, True])
def test_an_intact_folder_passes(folder, contents):
    check_files(read_manifest(folder), folder, contents=contents)


def test_the_digest_names_weights_wherever_they_lie(folder):
    manifest = read_manifest(folder)
    tensors = {name: dataclasses.replace(entry, file="elsewhere") for name, entry in manifest.tensors.items()}
    moved = dataclasses.replace(manifest, tensors=dict(reversed(tensors.items())), policy_version=9, files={})
    assert moved.digest == manifest.digest
    for change in ({"shape": (3, 2)}, {"dtype": "bfloat16"}, {"hash": "00"}):
        other = manifest.tensors | {"head": dataclasses.replace(manifest.tensors["head"], **change)}
        assert dataclasses.replace(manifest, tensors=other).digest != manifest.digest
    renamed = {"norm": manifest.tensors["norm"], "tail": manifest.tensors["head"]}
    assert dataclasses.replace(manifest, tensors=renamed).digest != manifest.digest


def test_a_part_of_a_file_is_hashed_to_its_last_byte(tmp_path):
    content = np.random.default_rng(0).bytes(9 << 20)  # more than two buffers
    (tmp_path / "data").write_bytes(content)
    assert hash_range(tmp_path / "data", 5, len(content)) == hashlib.sha256(content[5:]).hexdigest()
    assert hash_range(tmp_path / "data", 5, 6) == hashlib.sha256(content[5:6]).hexdigest()


def test_a_missing_file_is_named_with_its_tensors(folder):
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=f"{FILE} with 2 tensors, the first (norm|head) is missing"):
        check_files(read_manifest(folder), folder, contents=False)


def test_a_truncated_file_is_named_with_the_tensor_that_is_cut(folder):
    last = read_header(folder / FILE)[-1]
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{FILE} is torn within tensor {last.name}: it has {len(content) - 1} bytes"):
        check_files(read_manifest(folder), folder, contents=False)


@pytest.mark.parametrize("left", [0, 5, 30])
def test_a_file_cut_within_its_header_is_named(folder, left):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:left])
    with pytest.raises(UserError, match=f"{FILE} has {left} of .* bytes and no readable header"):
        check_files(read_manifest(folder), folder, contents=False)


@pytest.mark.parametrize("number", [0, 1])
def test_a_changed_tensor_is_named_when_contents_are_read(folder, number):
    place = read_header(folder / FILE)[number]
    flip(folder / FILE, place.end - 1)
    check_files(read_manifest(folder), folder, contents=False)
    with pytest.raises(UserError, match=f"{FILE} was changed after it was written: tensor {place.name} differs"):
        check_files(read_manifest(folder), folder, contents=True)


def test_a_changed_header_or_text_file_is_named(folder):
    manifest = read_manifest(folder)
    header = (folder / FILE).read_bytes()
    flip(folder / "config.json", 2)
    with pytest.raises(UserError, match=r"config\.json was changed .*its bytes"):
        check_files(manifest, folder, contents=True)
    (folder / FILE).write_bytes(header.replace(b'"pt"', b'"tf"'))
    with pytest.raises(UserError, match=f"{FILE} was changed .*its header"):
        check_files(manifest, folder, contents=True)


def test_a_tensor_of_another_shape_or_a_lost_one_is_named_without_reading_contents(folder):
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content.replace(b"[2,3]", b"[3,2]"))
    with pytest.raises(UserError, match=r"tensor head, float32 \(3, 2\); manifest.json asks for float32 \(2, 3\)"):
        check_files(read_manifest(folder), folder, contents=False)
    (folder / FILE).write_bytes(content.replace(b'"norm"', b'"gorm"'))
    with pytest.raises(UserError, match=r"tensor gorm, .* has no such tensor there"):
        check_files(read_manifest(folder), folder, contents=False)


def test_a_tensor_that_no_file_holds_is_named(folder):
    manifest = read_manifest(folder)
    more = manifest.tensors | {"lost": dataclasses.replace(manifest.tensors["head"], file="config.json")}
    with pytest.raises(UserError, match="lost"):
        check_files(dataclasses.replace(manifest, tensors=more), folder, contents=False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no finished export"),
        ("{", "is not a manifest"),
        ("[]", "is not a manifest"),
        ('{"format": 2}', "format 2"),
    ],
)
def test_a_folder_without_a_usable_manifest_is_no_export(folder, text, told):
    (folder / FILE_NAME).unlink()
    if text is not None:
        (folder / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=told):
        read_manifest(folder)
