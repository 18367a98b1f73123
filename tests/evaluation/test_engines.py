"""What a model's name means, the rope that its context needs, and that the embedded engine draws with it."""

import asyncio
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax import cli, load_model
from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import engines
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import read_config
from nouscoder_jax.types import EngineError, Prompt, Sampling

URL = "http://127.0.0.1:9"


@pytest.fixture
def tiny(root):
    return cli.load_config_file(root / "configs/tiny.py")


@pytest.fixture
def qwen3(tiny, root, tmp_path):
    """A config whose model has the positions of Qwen3-14B; its folder has a config.json only."""
    fields = read_config(root / "configs/tiny/policy") | {"max_position_embeddings": 40960}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return cli.apply_overrides(tiny, ["--model.path", str(tmp_path), "--data.max-prompt-tokens", "2048"])


def source(config, *arguments, tokenizer=""):
    said = []
    found = engines.make_source(cli.apply_overrides(config, arguments), tokenizer=tokenizer, say=said.append)
    return found, said


def test_the_address_of_servers_takes_the_tokenizer_that_is_given(tiny):
    found, said = source(tiny, "--model.path", f"{URL}/,http://127.0.0.1:10", tokenizer=tiny.model.path)
    assert found.urls == (URL, "http://127.0.0.1:10") and found.as_served and not said
    assert found.config.model.path == tiny.model.path and found.config.rollout.engine == "sglang"


@pytest.mark.parametrize(("path", "is_found"), [("folder", True), ("Qwen/Qwen3-14B", False)])
def test_without_a_tokenizer_it_is_that_of_the_folder_that_the_server_names(tiny, monkeypatch, path, is_found):
    served = tiny.model.path if is_found else path
    monkeypatch.setattr(engines, "router_workers", lambda url: None)
    monkeypatch.setattr(engines, "ask_at_start", lambda url, path: {"model_path": served})
    if is_found:
        assert source(tiny, "--model.path", URL)[0].config.model.path == served
    else:
        with pytest.raises(UserError, match=r"serves Qwen/Qwen3-14B, which is no folder.*--tokenizer DIR"):
            source(tiny, "--model.path", URL)


def test_a_server_that_does_not_answer_is_named(tiny):
    with pytest.raises(UserError, match=r"no SGLang server answers at http://127\.0\.0\.1:9"):
        source(tiny, "--model.path", URL)


def test_a_directory_has_its_own_tokenizer(tiny):
    with pytest.raises(UserError, match=r"--tokenizer got other.*is no address of a server"):
        source(tiny, tokenizer="other")


def test_servers_of_the_config_are_to_load_a_directory(tiny):
    found, _ = source(tiny, "--rollout.engine", "sglang", "--rollout.urls", URL)
    assert found.urls == (URL,) and not found.as_served


def test_yarn_is_set_where_the_context_is_longer_than_the_model_knows(qwen3):
    found, said = source(qwen3, "--evaluation.max-completion-tokens", "60000")
    assert (found.config.model.yarn_factor, found.config.model.yarn_original_tokens) == (2.5, 32768)
    assert said == ["YaRN factor 2.5 over 32768 positions: 62048 tokens are more than 40960"]


def test_completions_of_the_whole_context_end_where_it_does(qwen3):
    found, said = source(qwen3, "--evaluation.max-completion-tokens", "81920")
    assert found.config.evaluation.max_completion_tokens == 81920 - 2048
    assert said[1] == "completions end at 79872 tokens: with 2048 of a prompt, 81920 in all"


@pytest.mark.parametrize("arguments", [["--evaluation.max-completion-tokens", "38912"], ["--model.yarn-factor", "4"]])
def test_yarn_is_left_as_it_is_where_it_is_set_or_not_needed(qwen3, arguments):
    found, said = source(qwen3, *arguments)
    assert found.config == cli.apply_overrides(qwen3, arguments) and not said


def test_more_than_the_set_factor_reaches_is_refused(qwen3):
    with pytest.raises(UserError, match=r"83969 tokens \(2048 \+ 81921\).*--model.yarn-factor"):
        source(qwen3, "--evaluation.max-completion-tokens", "81921")


def test_a_model_of_few_positions_is_never_stretched_unasked(tiny):
    with pytest.raises(UserError, match=r"knows 4096 positions; lower --max-tokens.*--model.yarn-factor F"):
        source(tiny, "--evaluation.max-completion-tokens", "4000")


def test_the_embedded_engine_draws_with_the_stretched_rope(tiny, tmp_path):
    """Its logprobs are those of a folder whose config.json has the stretched rope, and of no other."""
    prompt = Prompt(problem_id="p", token_ids=tuple(range(5, 45)))
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=4, seed=0)
    folder = Path(tiny.model.path)
    plain = Architecture.from_hf(read_config(folder))

    async def draw(config):
        found = engines.Source(config=config, name=config.model.path)
        async with engines.open_engine(found, eos_ids=(), say=lambda line: None) as engine:
            return await engine.generate(prompt, sampling)

    drawn = {}
    for factor in (1.0, 4.0):
        stretched = tmp_path / str(factor)
        stretched.mkdir()
        for file in folder.glob("*.safetensors*"):
            (stretched / file.name).symlink_to(file)
        architecture = plain.stretched(factor, original_tokens=1024)
        (stretched / "config.json").write_text(json.dumps(architecture.to_hf()))
        yarn = [f"--model.yarn-factor={factor}", "--model.yarn-original-tokens=1024"]
        drawn[factor] = asyncio.run(draw(cli.apply_overrides(tiny, yarn)))
        ids = drawn[factor].token_ids
        logits = load_model(stretched)(jnp.asarray([[*prompt.token_ids, *ids]]))
        logprobs = np.asarray(jax.nn.log_softmax(logits))[0, len(prompt.token_ids) - 1 : -1]
        expected = [row[token] for row, token in zip(logprobs, ids, strict=True)]
        np.testing.assert_allclose(drawn[factor].behavior_logprobs, expected, atol=2e-5)
    assert drawn[1.0].behavior_logprobs != drawn[4.0].behavior_logprobs


def test_a_failure_of_servers_says_what_to_do(tiny):
    found = engines.Source(config=tiny, name=URL, urls=(URL,), as_served=True)
    told = str(engines.explained(EngineError("gone"), found, out=None))
    assert told == f"gone; look at the log of {URL} and start what ended, then evaluate again"
    told = str(engines.explained(EngineError("gone"), found, out=Path("out")))
    assert told.endswith("start what ended; what was judged is in out: the same command goes on from there")
    assert str(engines.explained(EngineError("gone"), dataclasses.replace(found, urls=()), out=None)) == "gone"
