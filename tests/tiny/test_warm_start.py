"""The shipped policy, and the code that makes one like it."""

import json
from pathlib import Path

import numpy as np
import pytest
from small import make_config

from nouscoder_jax.tiny.warm_start import ARCHITECTURE, Part, make_tokenizer, warm_start


def test_the_shipped_policy_is_a_small_qwen3_that_transformers_loads(root: Path):
    pytest.importorskip("torch", reason="transformers needs torch to run a model")
    import transformers

    folder = root / "configs" / "tiny" / "policy"
    assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert 1e6 <= model.num_parameters() <= 4e6
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Print 1."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nPrint 1.<|im_end|>\n<|im_start|>assistant\n"


def test_any_text_survives_the_tokenizer(root: Path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "configs" / "tiny" / "policy")
    for text in ("for x in w:\n    print(x)\n", "žluťoučký 漢字 \t\r\n  x", "12345 + 67"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_the_warm_start_learns_and_repeats_bit_for_bit(root: Path, tmp_path: Path):
    config = make_config()
    weights, losses = [], []
    for name in ("a", "b"):
        make_tokenizer(tmp_path / name, seed=1)
        warm_start(
            config,
            tmp_path / name,
            seed=1,
            parts=(Part(plan_chance=0.5, phases=((4, 4e-3),)), Part(plan_chance=0.2, phases=((1, 1e-3),))),
            on_update=lambda n, loss: losses.append(loss),
        )
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert losses[4] < losses[0] - 0.5 and np.isfinite(losses).all()
    config_json = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config_json["num_hidden_layers"] == ARCHITECTURE.num_layers
