"""Every dense Qwen3 loads by its config.json. The files in qwen3_configs/ state what the published ones do."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from nouscoder_jax import load_model
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import abstract_model, save_model

CONFIGS = Path(__file__).parent / "qwen3_configs"

# vocab * embed * (1 tied, 2 untied) + embed
#   + layers * (embed * 128 * (2 * heads + 2 * 8) + 2 * 128 + 3 * embed * mlp + 2 * embed)
NUM_PARAMETERS = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
}


def config_json(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_a_published_config_json_gives_the_published_number_of_parameters(name):
    leaves = jax.tree.leaves(abstract_model(Architecture.from_hf(config_json(name))))
    assert sum(leaf.size for leaf in leaves) == NUM_PARAMETERS[name]


def test_small_sizes_are_tied_and_large_ones_are_not():
    tied = {name: Architecture.from_hf(config_json(name)).tie_word_embeddings for name in NUM_PARAMETERS}
    assert [name for name in tied if tied[name]] == ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B"]


def test_transformers_makes_the_same_tensors_of_every_config_json():
    # two layers say what sixty-four do
    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch (CPU)")
    transformers = pytest.importorskip("transformers")
    from nouscoder_jax.model.name_table import hf_pieces

    for name in NUM_PARAMETERS:
        config = config_json(name) | {"num_hidden_layers": 2}
        with torch.device("meta"):
            theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**config))
        shapes = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
        ours = hf_pieces(abstract_model(Architecture.from_hf(config)))
        assert shapes == {name: piece.shape for name, piece in ours.items()}


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-14B"])
def test_one_layer_of_a_published_size_loads_in_three_lines_and_gives_logits(name, tmp_path):
    # heads and their width as published; narrower elsewhere, which would take gigabytes
    small = {"num_hidden_layers": 1, "vocab_size": 512, "intermediate_size": 256, "hidden_size": 512}
    config = config_json(name) | small
    architecture = Architecture.from_hf(config)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32) * 0.05, abstract_model(architecture))
    save_model(weights, architecture, tmp_path / name, dtype="bfloat16", tokenizer_dir=None)
    (tmp_path / name / "config.json").write_text(json.dumps(config))

    model = load_model(tmp_path / name)
    logits = model([[1, 2, 3, 4, 5]])
    assert logits.shape == (1, 5, 512)
    assert bool(np.isfinite(logits).all()) and model.architecture == architecture
