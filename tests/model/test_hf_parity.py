"""Our logits and gradients against transformers' own Qwen3 (torch, CPU, float32) on tiny random checkpoints."""

from __future__ import annotations

import copy
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with transformers needs torch (CPU)")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
YARN_TOLERANCE = 5e-6
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Half the time to compile. A user's own optimised program is the one of test_..._at_position_40000."""
NUM_TOKENS = 160  # far past the original length of 64, where YaRN matters
TINY = dict(
    vocab_size=96, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-6, tie_word_embeddings=False,
    attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)  # fmt: skip


def yarn(factor: float, **more) -> dict:
    return {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": factor, "original_max_position_embeddings": 64, **more,
    }  # fmt: skip


GQA_5 = dict(num_attention_heads=10, num_key_value_heads=2)
VARIANTS = {
    "gqa ratio 1": dict(num_key_value_heads=4),
    "gqa ratio 2, untied, head_dim 16 of 40 / 4": dict(),
    "gqa ratio 5": GQA_5,
    "tied embeddings": dict(tie_word_embeddings=True),
    "attention bias": dict(attention_bias=True),
    "rope_theta 10000": dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
    "yarn 2": dict(rope_parameters=yarn(2.0)),
    "yarn 2.5": dict(rope_parameters=yarn(2.5)),
    "yarn 4": dict(rope_parameters=yarn(4.0)),
    "yarn with every field": dict(
        rope_parameters=yarn(4.0, attention_factor=0.8, beta_fast=8.0, beta_slow=2.0, truncate=False)
    ),
    "yarn + tied + bias": dict(rope_parameters=yarn(4.0), tie_word_embeddings=True, attention_bias=True),
    "dialect 4": dict(dialect=4, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "dialect 4 + yarn": dict(dialect=4, rope_parameters=yarn(2.5) | {"rope_theta": 5e5}),
    "bfloat16 file": dict(dtype=torch.bfloat16),
    "several files": dict(shard_size="20KB"),
    "all at once": GQA_5
    | dict(attention_bias=True, dialect=4, dtype=torch.bfloat16, shard_size="20KB", rope_parameters=yarn(2.0)),
}


def make_checkpoint(path, *, dtype=torch.float32, shard_size="5GB", dialect=5, **changes):
    """Writes a random checkpoint with transformers and returns its torch model, in float32."""
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**(TINY | changes)))
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small, zero and one of a fresh model
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(path, max_shard_size=shard_size)
    assert (path / "model.safetensors.index.json").exists() == (shard_size != "5GB")
    # read back, because .to(bfloat16) rounds torch's rope frequencies as well
    model = transformers.Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if dialect == 4:
        to_dialect_4(path / "config.json")
    return model


def to_dialect_4(file):
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    file.write_text(json.dumps(config))


def random_tokens():
    return np.random.default_rng(0).integers(0, TINY["vocab_size"], (2, NUM_TOKENS)).astype(np.int32)


def our_logits_and_gradients(path):
    """Logits, and the gradients of the mean negative logprob of the next token under transformers' names."""
    from nouscoder_jax import load_model
    from nouscoder_jax.model.weights import hf_tensors

    tokens = random_tokens()
    model = load_model(path)

    def loss(model):
        logits = model(tokens)
        table = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(table, tokens[:, 1:, None], -1)), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(model)
    return np.asarray(logits), hf_tensors(gradients.weights, dtype="float32")


def their_logits_and_gradients(model):
    ids = torch.asarray(random_tokens()).long()
    output = model(ids, labels=ids)
    output.loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return output.logits.detach().numpy(), gradients


# A gradient takes 6 s of CPU to compile: by default five variants that have everything in them, the others marked slow.
BY_DEFAULT = ("gqa ratio 1", "yarn 2.5", "yarn + tied + bias", "dialect 4", "all at once")
PARAMETERS = [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in VARIANTS]


@pytest.fixture(scope="module", params=PARAMETERS)
def outputs(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    theirs = their_logits_and_gradients(make_checkpoint(path, **VARIANTS[request.param]))
    return our_logits_and_gradients(path), theirs


def test_logits_equal_transformers(outputs):
    (ours, _), (theirs, _) = outputs
    difference = np.abs(ours - theirs).max()
    print(f"largest difference of a logit: {difference:.1e}")
    assert difference <= TOLERANCE


def test_gradients_of_a_token_loss_equal_transformers(outputs):
    (_, ours), (_, theirs) = outputs
    assert ours.keys() == theirs.keys()
    relative = {name: np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in theirs}
    print(f"largest relative difference of a gradient: {max(relative.values()):.1e}")
    assert max(relative.values()) <= TOLERANCE, relative


@pytest.mark.parametrize("factor", [2.0, 2.5, 4.0])
def test_logprobs_past_the_original_length_are_those_of_transformers(factor, tmp_path):
    """A plain checkpoint, stretched as model.yarn_factor does it; the largest position is that of the factor."""
    from nouscoder_jax.model.architecture import Architecture
    from nouscoder_jax.model.causal_lm import load_model
    from nouscoder_jax.model.weights import read_config

    make_checkpoint(tmp_path)
    config = transformers.Qwen3Config.from_pretrained(tmp_path)
    config.rope_parameters, config.max_position_embeddings = yarn(factor), int(factor * 64)
    theirs = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path, config=config, dtype=torch.float32).eval()
    tokens = random_tokens()[:, : int(factor * 64)]
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.asarray(tokens).long()).logits, -1).numpy()
    architecture = Architecture.from_hf(read_config(tmp_path)).stretched(factor, original_tokens=64)
    (tmp_path / "config.json").write_text(json.dumps(architecture.to_hf()))
    difference = np.abs(np.asarray(jax.nn.log_softmax(load_model(tmp_path)(tokens))) - expected).max()
    print(f"factor {factor}: largest difference of a logprob {difference:.1e}")
    assert difference <= YARN_TOLERANCE


@pytest.mark.parametrize("rope", [TINY["rope_parameters"], yarn(4.0)], ids=["plain", "yarn"])
def test_logits_equal_transformers_at_position_40000(rope, tmp_path):
    from nouscoder_jax import load_model

    theirs = make_checkpoint(tmp_path, head_dim=128, rope_parameters=rope)
    # Its own frequencies are computed in float32, whose last bits differ between processors: 0.002 radians up here.
    # test_rope.py compares ours with the exact ones.
    buffer = theirs.model.rotary_emb.inv_freq
    buffer.copy_(torch.asarray(our_frequencies(json.loads((tmp_path / "config.json").read_text()))[0]))
    tokens = random_tokens()
    positions = np.broadcast_to(np.arange(40_000, 40_000 + NUM_TOKENS), tokens.shape)
    with torch.no_grad():
        expected = theirs(torch.asarray(tokens).long(), position_ids=torch.asarray(positions.copy())).logits.numpy()
    assert np.abs(load_model(tmp_path)(tokens, positions=positions) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["tied embeddings", "yarn with every field", "gqa ratio 5"])
def test_transformers_reads_what_we_write(name, tmp_path):
    from nouscoder_jax.model.weights import load_model, save_model

    theirs = make_checkpoint(tmp_path / "theirs", **VARIANTS[name])
    architecture, ours = load_model(tmp_path / "theirs")
    save_model(ours, architecture, tmp_path / "ours", dtype="float32", tokenizer_dir=None)
    again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.asarray(random_tokens()).long()
        assert torch.equal(again(ids).logits, theirs(ids).logits)


# What users write into the rope fields of a config.json, right and wrong.
ROPE_FIELDS = {
    "rope_type": ["default", "yarn", "yarn", "linear", None],
    "type": ["default", "yarn", "yarn"],
    "rope_theta": [1e4, 1e6, 500000, None],
    "factor": [1.0, 2.0, 2.5, 4, 0.5, None],
    "original_max_position_embeddings": [16, 64, 32768, None],
    "attention_factor": [1.0, 0.9, 2, None],
    "beta_fast": [32, 16.0, 64, 0, None],
    "beta_slow": [1, 2.0, 0, None],
    "truncate": [True, False, None],
    "mscale": [1.0, 0, None],
    "mscale_all_dim": [1.0, 0.5, 0, None],
    "partial_rotary_factor": [1.0, 0.5],
    "full_attention": [{"rope_type": "default", "rope_theta": 1e6}],
}
LIKELY = {"rope_type": 0.8, "rope_theta": 0.6, "factor": 0.9, "original_max_position_embeddings": 0.6}


def random_rope_fields(rng):
    return {key: rng.choice(values) for key, values in ROPE_FIELDS.items() if rng.random() < LIKELY.get(key, 0.15)}


def random_config(rng):
    config = TINY | dict(model_type="qwen3", head_dim=rng.choice([16, 80, 128]), rope_parameters=None)
    config["max_position_embeddings"] = rng.choice([64, 40960, 131072])
    if rng.random() < 0.8:
        config["rope_theta"] = rng.choice([1e4, 1e6, 5000000])
    if rng.random() < 0.5:
        config["rope_parameters"] = random_rope_fields(rng)
    if rng.random() < 0.5:
        config["rope_scaling"] = rng.choice([None, {}, random_rope_fields(rng), config["rope_parameters"]])
    if rng.random() < 0.05:
        config["original_max_position_embeddings"] = rng.choice([16, 128])
    return copy.deepcopy(config)


def their_frequencies(config):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    rope = Qwen3RotaryEmbedding(transformers.Qwen3Config(**copy.deepcopy(config)))
    return rope.inv_freq.numpy(), float(rope.attention_scaling)


def our_frequencies(config):
    from nouscoder_jax.model.architecture import Architecture
    from nouscoder_jax.model.rope import inverse_frequencies

    a = Architecture.from_hf(config)
    scale = 1.0 if a.rope_scaling is None else a.rope_scaling.attention_factor
    return inverse_frequencies(head_dim=a.head_dim, theta=a.rope_theta, scaling=a.rope_scaling), scale


def test_rope_fields_that_we_accept_mean_what_they_mean_to_transformers():
    from nouscoder_jax.config import UserError

    transformers.logging.set_verbosity_error()
    rng, num_compared = random.Random(0), 0
    for config in (random_config(rng) for _ in range(1500)):
        try:
            ours, our_scale = our_frequencies(config)
        except UserError:
            continue  # refused by name
        try:
            theirs, their_scale = their_frequencies(config)
        except Exception as error:  # transformers refuses with errors of many types
            # null where a number belongs: we take it for a missing field
            if "None" not in str(error) and "null" not in str(error):
                raise AssertionError(f"transformers refuses {config}") from error
            continue
        num_compared += 1
        assert our_scale == pytest.approx(their_scale, rel=1e-12), config
        # theirs are computed in float32: 6 ulp (4.8e-7) from ours were seen; a field read otherwise is off by 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, err_msg=str(config))
    assert num_compared > 400
