"""Any part of any parameter is what the whole model has there."""

import dataclasses
import itertools

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nouscoder_jax.config import UserError
from nouscoder_jax.model.name_table import abstract_model
from nouscoder_jax.model.qwen3 import param_name
from nouscoder_jax.model.weights import load_model, save_model
from nouscoder_jax.model.weights_reader import WeightsReader
from nouscoder_jax.sharding import rule

HEAD = "lm_head.weight"


@pytest.fixture
def biased(architecture):
    """With every kind of parameter."""
    return dataclasses.replace(architecture, tie_word_embeddings=False, attention_bias=True)


def write(architecture, folder, *, dtype="bfloat16"):
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_model(architecture))
    save_model(model, architecture, folder, dtype=dtype, tokenizer_dir=None)
    return {param_name(path): leaf for path, leaf in jax.tree.leaves_with_path(load_model(folder)[1])}


def halves(name, shape):
    """Every part of a mesh fsdp 2 x tensor 2, and the whole."""
    spec = (*rule(name), *[None] * len(shape))[: len(shape)]
    choices = [
        [slice(None)] if axis is None else [slice(0, size // 2), slice(size // 2, size), slice(None)]
        for axis, size in zip(spec, shape, strict=True)
    ]
    return itertools.product(*choices)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_part_is_what_the_whole_model_has_there(biased, tmp_path, dtype):
    whole = write(biased, tmp_path / "model", dtype=dtype)
    reader = WeightsReader(tmp_path / "model", biased)
    for name, array in whole.items():
        for index in halves(name, array.shape):
            block = reader.block(name, index)
            assert (block.dtype == np.float32 and block.flags.owndata) or block.base is None
            np.testing.assert_array_equal(block, array[index], err_msg=f"{name} {index}")


def test_a_converted_folder_gives_the_same(biased, tmp_path):
    from nouscoder_jax.training.convert import from_hf

    whole = write(biased, tmp_path / "model")
    from_hf(tmp_path / "model", tmp_path / "converted", say=print)
    reader = WeightsReader(tmp_path / "converted", biased)
    for name, array in whole.items():
        for index in halves(name, array.shape):
            np.testing.assert_array_equal(reader.block(name, index), array[index], err_msg=name)


def change(file, name, changed):
    tensors = safetensors.numpy.load_file(file)
    tensors[name] = changed(tensors)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(biased, tmp_path, value):
    write(biased, tmp_path / "model")

    def spoilt(tensors):
        array = tensors["model.norm.weight"].copy()
        array[3] = value
        return array

    change(tmp_path / "model" / "model.safetensors", "model.norm.weight", spoilt)
    reader = WeightsReader(tmp_path / "model", biased)
    reader.block("embed_tokens", [slice(None), slice(None)])
    with pytest.raises(UserError, match=r"model\.norm\.weight has weights that are not finite"):
        reader.block("norm", [slice(None)])


def test_a_tied_head_must_be_the_embedding(biased, tmp_path):
    tied = dataclasses.replace(biased, tie_word_embeddings=True)
    write(tied, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    change(file, HEAD, lambda tensors: tensors["model.embed_tokens.weight"].copy())
    WeightsReader(tmp_path / "model", tied).block("embed_tokens", [slice(None), slice(None)])
    change(file, HEAD, lambda tensors: tensors[HEAD] + ml_dtypes.bfloat16(1))
    with pytest.raises(UserError, match="differs from its embedding"):
        WeightsReader(tmp_path / "model", tied).block("embed_tokens", [slice(0, 4), slice(None)])


def test_a_missing_tensor_is_found_before_anything_is_read(biased, tmp_path):
    write(biased, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    del tensors["model.norm.weight"]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(UserError, match=r"model\.norm\.weight is missing"):
        WeightsReader(tmp_path / "model", biased)
