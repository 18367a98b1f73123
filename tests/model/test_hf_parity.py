"""Our logits against transformers' own Qwen3 (torch, CPU, float32) on tiny random checkpoints."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with transformers needs torch (CPU)")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
TINY = dict(
    vocab_size=96, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=False,
    attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)  # fmt: skip


def yarn(factor: float) -> dict:
    return {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": factor, "original_max_position_embeddings": 64,
    }  # fmt: skip


VARIANTS = {
    "gqa ratio 1": dict(num_key_value_heads=4),
    "gqa ratio 2": dict(),
    "gqa ratio 5": dict(num_attention_heads=5, num_key_value_heads=1),
    "tied embeddings": dict(tie_word_embeddings=True),
    "attention bias": dict(attention_bias=True),
    "rope_theta 10000": dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
    "yarn 2": dict(rope_parameters=yarn(2.0)),
    "yarn 2.5": dict(rope_parameters=yarn(2.5)),
    "yarn 4": dict(rope_parameters=yarn(4.0)),
}


def make_checkpoint(path, *, dtype=None, **changes):
    """Writes a random checkpoint with transformers and returns its torch model, in float32."""
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**(TINY | changes)))
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small, zero and one of a fresh model
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype or torch.float32).save_pretrained(path)
    # read back, because .to(bfloat16) rounds torch's rope frequencies as well
    return transformers.Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def our_logits(path, tokens):
    from nouscoder_jax.model.qwen3 import forward, logits, output_embedding
    from nouscoder_jax.model.weights import load_model

    _, model = load_model(path)
    model = jax.tree.map(jnp.asarray, model)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = forward(
        model, jnp.asarray(tokens), positions, jnp.ones_like(positions),
        compute_dtype="float32", attention="reference", remat="none",
    )  # fmt: skip
    return np.asarray(logits(hidden, output_embedding(model)))


def largest_difference(path, model):
    # 160 tokens lie past the original length of 64, where YaRN matters
    tokens = np.random.default_rng(0).integers(0, TINY["vocab_size"], (2, 160)).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.asarray(tokens).long()).logits.numpy()
    return np.abs(our_logits(path, tokens) - expected).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name, tmp_path):
    model = make_checkpoint(tmp_path, **VARIANTS[name])
    assert largest_difference(tmp_path, model) <= TOLERANCE


def test_logits_equal_transformers_for_bfloat16_files(tmp_path):
    model = make_checkpoint(tmp_path, dtype=torch.bfloat16)
    assert largest_difference(tmp_path, model) <= TOLERANCE


@pytest.mark.parametrize("factor", [None, 2.5])
def test_the_dialect_of_transformers_4_means_the_same(factor, tmp_path):
    rope = {"rope_type": "default", "rope_theta": 5e5} if factor is None else yarn(factor) | {"rope_theta": 5e5}
    model = make_checkpoint(tmp_path, rope_parameters=rope)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config["rope_theta"] = 5e5
    config["rope_scaling"] = (
        None if factor is None else {"type": "yarn", "factor": factor, "original_max_position_embeddings": 64}
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert largest_difference(tmp_path, model) <= TOLERANCE


@pytest.mark.parametrize("name", ["tied embeddings", "attention bias", "yarn 2.5", "gqa ratio 5"])
def test_transformers_reads_what_we_write(name, tmp_path):
    from nouscoder_jax.model.weights import load_model, save_model

    make_checkpoint(tmp_path / "theirs", **VARIANTS[name])
    architecture, ours = load_model(tmp_path / "theirs")
    save_model(ours, architecture, tmp_path / "ours", dtype="float32", tokenizer_dir=None)
    model = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert largest_difference(tmp_path / "theirs", model) <= TOLERANCE


def test_gradients_of_a_token_loss_equal_transformers(tmp_path):
    from nouscoder_jax.model.qwen3 import forward, logits, output_embedding
    from nouscoder_jax.model.weights import hf_tensors, load_model

    theirs = make_checkpoint(tmp_path)
    tokens = np.random.default_rng(1).integers(0, TINY["vocab_size"], (2, 24)).astype(np.int32)
    ids = torch.asarray(tokens).long()
    theirs(ids, labels=ids).loss.backward()
    positions = jnp.broadcast_to(jnp.arange(24), tokens.shape)

    def loss(model):
        hidden = forward(
            model, jnp.asarray(tokens), positions, jnp.ones_like(positions),
            compute_dtype="float32", attention="reference", remat="layer",
        )  # fmt: skip
        table = jax.nn.log_softmax(logits(hidden, output_embedding(model)))
        return -jnp.mean(jnp.take_along_axis(table[:, :-1], tokens[:, 1:, None], -1))

    _, model = load_model(tmp_path)
    ours = hf_tensors(jax.jit(jax.grad(loss))(model), dtype="float32")
    for name, parameter in theirs.named_parameters():
        expected = parameter.grad.numpy()
        assert np.abs(ours[name] - expected).max() <= 1e-4 * np.abs(expected).max(), name
