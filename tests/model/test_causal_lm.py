"""Three lines of Python from a Hugging Face directory to logits."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import make_architecture

from nouscoder_jax import load_model
from nouscoder_jax.config import UserError
from nouscoder_jax.model.weights import abstract_model, save_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = make_architecture(hidden_size=16, intermediate_size=24, head_dim=8, max_position_embeddings=16)
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.normal(0.0, 0.5, x.shape).astype(np.float32), abstract_model(TINY))
    save_model(weights, TINY, path, dtype="float32", tokenizer_dir=None)
    return path


@pytest.fixture(scope="module")
def model(directory):
    return load_model(directory)


def test_logits_are_float32_rows_time_vocab(model):
    logits = model(TOKENS)
    assert (logits.shape, logits.dtype) == ((2, 12, 64), jnp.float32)
    assert float(jnp.std(logits)) > 0.1


def test_architecture_and_weights_can_be_read(model):
    assert model.architecture == TINY
    assert model.weights.embed_tokens[...].shape == (64, 16)


@pytest.mark.parametrize("convert", [np.int64, jnp.asarray, np.ndarray.tolist], ids=["int64", "jax", "lists"])
def test_tokens_may_be_numpy_jax_or_lists(convert, model):
    tokens = convert(TOKENS) if convert is not np.int64 else TOKENS.astype(np.int64)
    np.testing.assert_array_equal(model(tokens), model(TOKENS))


def test_the_model_works_under_jit_as_argument_and_as_function(model):
    expected = model(TOKENS)
    np.testing.assert_allclose(jax.jit(lambda model, tokens: model(tokens))(model, TOKENS), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model)(TOKENS), expected, atol=1e-5)


def test_a_row_longer_than_the_trained_length_is_computed(model):
    long = np.tile(TOKENS, (1, 3))  # 36 tokens, max_position_embeddings 16
    np.testing.assert_allclose(model(long)[:, :12], model(TOKENS), atol=1e-5)


def test_a_packed_row_equals_its_sequences(model):
    packed = np.concatenate([TOKENS[0, :7], TOKENS[1]])[None]
    logits = model(packed, segment_ids=[[1] * 7 + [2] * 12])
    np.testing.assert_allclose(logits[0, :7], model(TOKENS)[0, :7], atol=1e-5)
    np.testing.assert_allclose(logits[0, 7:], model(TOKENS)[1], atol=1e-5)


def test_only_distances_between_positions_matter(model):
    positions = np.broadcast_to(np.arange(12), TOKENS.shape)
    np.testing.assert_allclose(model(TOKENS, positions=positions), model(TOKENS), atol=1e-6)
    np.testing.assert_allclose(model(TOKENS, positions=positions + 100), model(TOKENS), atol=1e-4)
    assert float(jnp.abs(model(TOKENS, positions=positions * 5) - model(TOKENS)).max()) > 1e-3


def test_bfloat16_computes_near_float32(directory, model):
    rough = load_model(directory, compute_dtype="bfloat16")(TOKENS)
    assert rough.dtype == jnp.float32
    difference = float(jnp.abs(rough - model(TOKENS)).mean())
    assert 0 < difference < 0.05 * float(jnp.abs(model(TOKENS)).mean())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS[0], r"tokens has shape \(12,\); .*tokens\[None\]"),
        (TOKENS[None], r"tokens has shape \(1, 2, 12\)"),
        (TOKENS[:, :0], r"tokens has shape \(2, 0\); at least one"),
        ([[1, 2], [3]], "tokens has rows of different lengths"),
        (TOKENS.astype(np.float32), "tokens has dtype float32; whole numbers"),
        (TOKENS > 3, "tokens has dtype bool; whole numbers"),
        ([[1, 2], [3, 64]], r"tokens\[1, 1\] is 64; the vocabulary has 64 tokens"),
        (jnp.array([[1, -2]]), r"tokens\[0, 1\] is -2"),
        (np.array([[2**32]]), "is 4294967296"),
    ],
    ids=["one row", "rank 3", "empty", "ragged", "float", "bool", "too large", "negative", "int64"],
)
def test_bad_tokens_are_refused_with_the_reason(tokens, message, model):
    with pytest.raises(UserError, match=message):
        model(tokens)


def test_segment_ids_of_another_shape_are_refused(model):
    with pytest.raises(UserError, match=r"segment_ids has shape \(1, 12\), tokens \(2, 12\)"):
        model(TOKENS, segment_ids=np.ones((1, 12), np.int32))


def test_a_directory_that_is_none_and_an_unknown_dtype_are_refused(directory, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path / "nothing")
    with pytest.raises(UserError, match="compute_dtype is 'float16'"):
        load_model(directory, compute_dtype="float16")


def imported_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if name in ("jax", "numpy", "flax", "optax", "transformers", "torch")}


def test_importing_the_package_imports_nothing_heavy():
    assert imported_after("import nouscoder_jax") == set()


def test_importing_a_loss_imports_only_jax():
    assert imported_after("from nouscoder_jax.losses import dapo_loss") == {"jax", "numpy"}


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import nouscoder_jax

    assert dir(nouscoder_jax).count("load_model") <= 1 and nouscoder_jax.__all__ == ["load_model"]
    with pytest.raises(AttributeError, match="nothing_like_it"):
        nouscoder_jax.nothing_like_it  # noqa: B018 (asking is the test)
