"""Exports: transformers reads them, reading them back gives the same bits, a crash leaves none."""

import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from small import make_mesh_config, qwen3_14b

from nouscoder_jax import sharding
from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import FILE_NAME, check_files, read_manifest
from nouscoder_jax.model import weights_plan, weights_writer
from nouscoder_jax.model.weights import abstract_model, hf_tensors, load_model
from nouscoder_jax.training.export import export, prune, version_dir
from nouscoder_jax.training.state import named_leaves

SCRIPT = Path(__file__).with_name("export_process.py")
TINY = SCRIPT.parents[2] / "configs" / "tiny" / "policy"


def save(model, architecture, out_dir, *, dtype="float32", policy_version=1):
    return export(model, architecture, out_dir, dtype=dtype, tokenizer_dir=None, policy_version=policy_version)


def stored(folder):
    """Every tensor of an export by name, whatever file it is in."""
    return {k: v for file in folder.glob("*.safetensors") for k, v in safetensors.numpy.load_file(file).items()}


def assert_same_bytes(folder, wanted):
    got = stored(folder)
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert (got[name].dtype, got[name].shape) == (wanted[name].dtype, wanted[name].shape), name
        assert got[name].tobytes() == wanted[name].tobytes(), name


@pytest.fixture
def small_files(monkeypatch):
    """Many files and many pieces, for models far below a GiB."""
    monkeypatch.setattr(weights_plan, "SMALL_FILE_BYTES", 1 << 12)
    monkeypatch.setattr(weights_writer, "_PIECE_BYTES", 3000)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("where", ["host", "device"])
def test_every_tensor_has_the_bytes_of_hf_tensors(architecture, small_files, tmp_path, dtype, tied, where):
    wide = dataclasses.replace(architecture, tie_word_embeddings=tied, attention_bias=True, vocab_size=67)
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda leaf: rng.normal(0, 1, leaf.shape).astype(np.float32), abstract_model(wide))
    save(jax.device_put(model) if where == "device" else model, wide, tmp_path / "out", dtype=dtype)
    assert_same_bytes(tmp_path / "out", hf_tensors(model, dtype=dtype))


@pytest.mark.parametrize("mesh", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_model_spread_over_devices_gives_the_on_policy(architecture, model, start, make_config, tmp_path, mesh):
    _, state = start(make_config(mesh=mesh))
    assert not state.model.layers.mlp.up_proj[...].is_fully_replicated
    spread = save(state.model, architecture, tmp_path / "spread", dtype="bfloat16")
    assert spread.digest == save(model, architecture, tmp_path / "whole", dtype="bfloat16").digest


def test_weights_are_cast_before_gpus_gather_them(architecture):
    from nouscoder_jax.planning.compile import gpu_compiler_missing, gpu_devices
    from nouscoder_jax.planning.fleet import Fleet, find_gpu

    if reason := gpu_compiler_missing():
        pytest.skip(reason)
    config = make_mesh_config(fsdp=4, tensor=2)
    mesh = sharding.make_mesh(config, devices=gpu_devices(Fleet(gpu=find_gpu("h100"), num_gpus=8)))
    leaves = named_leaves(abstract_model(architecture))
    placed = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding.state_sharding(name, leaf.shape, mesh=mesh)
        )
        for name, leaf in leaves.items()
    }
    layer = {name: leaf for name, leaf in placed.items() if name.startswith("layers/")}
    where = sharding.replicated(mesh)
    for function, arrays in (
        (weights_writer._of_layer_jit("bfloat16", where), layer),
        (weights_writer._rows_jit(16, "bfloat16", where), placed["embed_tokens"]),
    ):
        compiled = function.trace(arrays, 0).lower(lowering_platforms=("cuda",)).compile()
        gathers = re.findall(r"= \(?(\w+)\[[^=]* (?:all-gather|all-reduce|all-to-all)", compiled.as_text())
        assert gathers and set(gathers) == {"bf16"}


def test_several_files_load_with_us_and_with_transformers(architecture, model, small_files, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: loading by transformers is not checked")
    import transformers

    manifest = save(model, architecture, tmp_path / "out")
    assert sum(name.endswith(".safetensors") for name in manifest.files) >= 3
    for name, leaf in named_leaves(load_model(tmp_path / "out")[1]).items():
        np.testing.assert_array_equal(leaf, named_leaves(model)[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    for name, tensor in hf_tensors(model, dtype="float32").items():
        np.testing.assert_array_equal(theirs[name].numpy(), tensor)


def test_a_small_model_is_one_file_without_an_index(architecture, model, tmp_path):
    save(model, architecture, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]


def test_files_of_the_14b_are_a_gib_at_most_but_for_the_vocabulary():
    fourteen = qwen3_14b()
    shards = weights_plan.plan_files(fourteen, dtype="bfloat16", num_processes=6)
    assert sum(shard.num_bytes for shard in shards) // 10**7 == 2953  # 14,768,307,200 parameters of 2 bytes
    large = [shard for shard in shards if shard.num_bytes > 1 << 30]
    assert [set(shard.units[0].names) for shard in large] == [{"model.embed_tokens.weight"}, {"lm_head.weight"}]
    written = [sum(shard.num_bytes for shard in shards if shard.writer % 6 == process) for process in range(6)]
    assert max(written) < 1.35 * sum(written) / 6


def test_the_export_says_its_version_and_all_its_files(architecture, model, tmp_path):
    source = tmp_path / "tokenizer"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    out = tmp_path / "out"
    manifest = export(model, architecture, out, dtype="bfloat16", tokenizer_dir=source, policy_version=7)
    assert manifest == read_manifest(out)
    assert (manifest.policy_version, manifest.dtype) == (7, "bfloat16")
    assert manifest.files.keys() | {FILE_NAME} == {path.name for path in out.iterdir()}
    check_files(manifest, out, contents=True)


def test_prune_keeps_the_newest_two_and_what_is_being_written(architecture, model, tmp_path):
    for version in (9, 10, 999_999, 1_000_000):
        save(model, architecture, version_dir(tmp_path, version), policy_version=version)
    (tmp_path / ".policy-1000001.part").mkdir()
    prune(tmp_path, newest=1_000_000)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".policy-1000001.part", "policy-1000000", "policy-999999"]


def test_prune_counts_only_finished_versions(architecture, model, tmp_path):
    for version in (1, 2):
        save(model, architecture, version_dir(tmp_path, version))
    version_dir(tmp_path, 3).mkdir()
    prune(tmp_path, newest=3)
    assert len(list(tmp_path.iterdir())) == 3


def test_prune_keeps_what_a_resumed_run_serves_and_not_what_came_after_it(architecture, model, tmp_path):
    for version in (3, 5, 6):
        save(model, architecture, version_dir(tmp_path, version), policy_version=version)
    prune(tmp_path, newest=3)
    assert [path.name for path in tmp_path.iterdir()] == ["policy-000003"]


@pytest.mark.parametrize("at", ["fdatasync", "fsync", "rename"])
def test_a_killed_export_leaves_no_version_and_the_next_one_clears_up(architecture, model, tmp_path, at):
    target = version_dir(tmp_path, 1)
    killed = subprocess.run([sys.executable, SCRIPT, "killed", str(target), at], env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == [".policy-000001.part"]
    with pytest.raises(UserError, match="no finished export"):
        read_manifest(target)
    save(model, architecture, version_dir(tmp_path, 2), policy_version=2)
    assert [path.name for path in tmp_path.iterdir()] == ["policy-000002"]


def test_a_slow_disk_holds_the_gathering_up(architecture, small_files, tmp_path, monkeypatch):
    deep = dataclasses.replace(architecture, num_layers=20)
    model = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract_model(deep))
    shards = weights_plan.plan_files(deep, dtype="float32", num_processes=1)
    gather, gathered, disk = weights_writer.gather_from(model, dtype="float32"), [], threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _: disk.wait(120))

    def counted(unit):
        for pieces in gather(unit):
            gathered.append(unit)
            yield pieces

    def write():
        weights_writer.write_shards(
            counted, shards, tmp_path, dtype="float32", policy_version=1, process=0, num_processes=1
        )

    writing = threading.Thread(target=write)
    writing.start()
    most = weights_writer.WRITERS + 2  # on their way to the disk, and the one that waits
    deadline = time.monotonic() + 60
    while len(gathered) < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    held_up = len(gathered)
    disk.set()
    writing.join()
    assert held_up == most
    assert len(gathered) > 20


@pytest.mark.parametrize("small", [True, False])
def test_a_full_disk_is_one_line_and_leaves_the_version_before(architecture, model, tmp_path, request, small):
    if small:
        request.getfixturevalue("small_files")
    before = save(model, architecture, version_dir(tmp_path, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # the kernel refuses to make files longer, as a full disk
    try:
        with pytest.raises(UserError, match=r"policy-000002 .*File too large.*make room") as caught:
            save(model, architecture, version_dir(tmp_path, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["policy-000001"]
    check_files(before, version_dir(tmp_path, 1), contents=True)


def test_a_place_that_cannot_be_written_is_one_line(architecture, model, tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*weights") as caught:
        save(model, architecture, version_dir(tmp_path / "weights", 1))
    assert "\n" not in str(caught.value)


def test_an_export_replaces_an_earlier_one_but_nothing_else(architecture, model, tmp_path):
    save(model, architecture, tmp_path / "out")
    assert save(model, architecture, tmp_path / "out", dtype="bfloat16") == read_manifest(tmp_path / "out")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a model directory"):
        save(model, architecture, tmp_path / "thesis")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thesis"]
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_two_processes_write_one_folder_each_its_part(architecture, tmp_path):
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import export_process
    finally:
        sys.path.pop(0)
    head, hand = export_process.run_two(tmp_path)
    out = tmp_path / "weights" / "policy-000001"
    _, alone = load_model(TINY)
    assert_same_bytes(out, hf_tensors(alone, dtype="bfloat16"))
    check_files(read_manifest(out), out, contents=True)
    # Files carry the umask of the process that made them.
    modes = {path.stat().st_mode & 0o777 for path in out.glob("*.safetensors")}
    assert modes == {0o644, 0o660}
    # Then the disk of process 1 was full: there is no version 2, and the head was told who could not write and why.
    assert head["failure"].startswith("process 1 on ") and "File too large" in head["failure"]
    assert [path.name for path in out.parent.iterdir()] == ["policy-000001"]
    assert hand == {"code": 0}
