"""Hugging Face directories: the same bits back, and a name for everything that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from small import make_architecture

from nouscoder_jax.config import UserError
from nouscoder_jax.model import qwen3
from nouscoder_jax.model.weights import load_model, save_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = make_architecture(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    head_dim=8,
    tie_word_embeddings=False,
    attention_bias=True,
    max_position_embeddings=128,
)


@pytest.fixture
def export(tmp_path):
    """A directory of random weights, every tensor different."""
    model = jax.jit(partial(qwen3.init, TINY))(jax.random.key(0))
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: rng.normal(0, 1, x.shape).astype(np.float32), model)
    save_model(noisy, TINY, tmp_path / "export", dtype="float32", tokenizer_dir=None)
    return tmp_path / "export"


def change_tensors(path, change):
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    safetensors.numpy.save_file(change(tensors), path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_and_writing_give_the_same_bits(dtype, export, tmp_path):
    if dtype == "bfloat16":
        change_tensors(export, lambda tensors: {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()})
    architecture, model = load_model(export)
    save_model(model, architecture, tmp_path / "again", dtype=dtype, tokenizer_dir=None)
    before = safetensors.numpy.load_file(export / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert before[name].tobytes() == after[name].tobytes(), name


def test_loaded_weights_are_float32_numpy(export):
    _, model = load_model(export)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(model))


def test_a_linear_layer_is_their_matrix_transposed(export):
    theirs = safetensors.numpy.load_file(export / "model.safetensors")
    _, model = load_model(export)
    q, o = model.layers.attention.q_proj[...], model.layers.attention.o_proj[...]
    # out feature 2 * 8 + 3 is head 2, dimension 3
    np.testing.assert_array_equal(q[1, :, 2, 3], theirs["model.layers.1.self_attn.q_proj.weight"][2 * 8 + 3, :])
    np.testing.assert_array_equal(o[0, 2, 3, :], theirs["model.layers.0.self_attn.o_proj.weight"][:, 2 * 8 + 3])


def test_sharded_files_load_like_a_single_one(export):
    whole = jax.tree.leaves(load_model(export)[1])
    tensors = safetensors.numpy.load_file(export / "model.safetensors")
    (export / "model.safetensors").unlink()
    weight_map = {}
    for i, name in enumerate(tensors):
        weight_map[name] = f"model-0000{i % 2 + 1}-of-00002.safetensors"
    for shard in set(weight_map.values()):
        part = {name: tensors[name] for name, file in weight_map.items() if file == shard}
        safetensors.numpy.save_file(part, export / shard)
    (export / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(load_model(export)[1]), whole)
    (export / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002"):
        load_model(export)


def test_a_tied_head_is_not_written(tmp_path):
    tied = replace(TINY, tie_word_embeddings=True)
    model = jax.jit(partial(qwen3.init, tied))(jax.random.key(0))
    save_model(model, tied, tmp_path / "tied", dtype="bfloat16", tokenizer_dir=None)
    assert "lm_head.weight" not in safetensors.numpy.load_file(tmp_path / "tied" / "model.safetensors")
    assert load_model(tmp_path / "tied")[0] == tied


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: {k: v for k, v in t.items() if k != NORM}, NORM),
        (lambda t: t | {"model.layers.2.mlp.up_proj.weight": t[NORM]}, "layers.2.mlp.up_proj"),
        (lambda t: t | {NORM: np.zeros(17, np.float32)}, NORM),
        (lambda t: t | {"lm_head.weight": t["lm_head.weight"].T.copy()}, "lm_head"),
    ],
    ids=["missing", "unexpected", "misshapen", "transposed"],
)
def test_a_wrong_tensor_is_named(change, named, export):
    change_tensors(export, change)
    with pytest.raises(UserError, match=named):
        load_model(export)


def test_a_truncated_file_is_named(export):
    file = export / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
        load_model(export)


def test_a_directory_without_config_json_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path)


def test_an_export_replaces_an_earlier_one_and_leaves_nothing_beside_it(export, tmp_path):
    architecture, model = load_model(export)
    save_model(model, architecture, export, dtype="bfloat16", tokenizer_dir=None)
    assert json.loads((export / "config.json").read_text())["dtype"] == "bfloat16"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_an_export_never_replaces_a_folder_that_is_no_export(export, tmp_path):
    architecture, model = load_model(export)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a model directory"):
        save_model(model, architecture, tmp_path / "thesis", dtype="float32", tokenizer_dir=None)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_tokenizer_files_and_token_ids_travel_along(export, tmp_path):
    architecture, model = load_model(export)
    source = tmp_path / "tokenizer"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "config.json").write_text(json.dumps({"eos_token_id": 7, "hidden_size": 1}))
    save_model(model, architecture, tmp_path / "out", dtype="float32", tokenizer_dir=source)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["eos_token_id"], config["hidden_size"]) == (7, 16)
