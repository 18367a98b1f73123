"""YaRN past the original length: our logprobs, those of transformers and those of a real SGLang server."""

import json
import os
import shutil

import httpx
import jax
import numpy as np
import pytest
from real_servers import PYTHON, PYTHONPATH, VOCABULARY, free_port, make_checkpoint

from nouscoder_jax import cli, load_model
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import read_config
from nouscoder_jax.rollout.servers import Servers
from nouscoder_jax.rollout.sglang_calls import read_scores, score_body

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
ORIGINAL = 64
COMPLETION = 16


@pytest.mark.parametrize("factor", [2.0, 2.5, 4.0])
def test_three_programs_give_the_same_logprobs(factor, root, tmp_path, monkeypatch):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    plain = tmp_path / "plain"
    make_checkpoint(plain, seed=0)
    length = int(factor * ORIGINAL)
    tokens = np.random.default_rng(0).integers(1, VOCABULARY - 1, length - COMPLETION).astype(np.int32)

    config = Qwen3Config.from_pretrained(plain)
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": ORIGINAL}
    config.rope_parameters, config.max_position_embeddings = rope | {"rope_theta": 10000.0}, length
    theirs = Qwen3ForCausalLM.from_pretrained(plain, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = theirs(torch.asarray(tokens[None]).long()).logits[0]
    of_transformers = chosen(torch.log_softmax(logits, -1).numpy(), tokens)

    stretched = tmp_path / "stretched"
    shutil.copytree(plain, stretched)
    architecture = Architecture.from_hf(read_config(plain)).stretched(factor, original_tokens=ORIGINAL)
    (stretched / "config.json").write_text(json.dumps(architecture.to_hf()))
    ours = chosen(np.asarray(jax.nn.log_softmax(load_model(stretched)(tokens[None])))[0], tokens)
    of_plain = chosen(np.asarray(jax.nn.log_softmax(load_model(plain)(tokens[None])))[0], tokens)

    overrides = [
        f"--model.path={plain}",
        f"--model.yarn-factor={factor}",
        f"--model.yarn-original-tokens={ORIGINAL}",
        f"--data.max-prompt-tokens={length - COMPLETION}",
        f"--rollout.max-completion-tokens={COMPLETION}",
        f"--evaluation.max-completion-tokens={COMPLETION}",
        f"--server.python={PYTHON}",
        f"--server.port={free_port()}",
        "--server.start-timeout-s=400",
    ]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (PYTHONPATH, os.environ.get("PYTHONPATH")))))
    config = cli.apply_overrides(cli.load_config_file(root / "configs/tiny.py"), overrides)
    servers = Servers(config, log_dir=tmp_path / "logs", say=print, beside_trainer=False)
    (url,) = servers.start()
    try:
        body = score_body(tokens.tolist(), cache_key="yarn")
        answer = httpx.post(f"{url}/generate", json=body, timeout=300).raise_for_status().json()
    finally:
        servers.stop()
    of_sglang = read_scores(url, answer, tokens.tolist(), weight_version=answer["meta_info"]["weight_version"])

    differences = {"transformers": of_transformers, "SGLang": of_sglang, "without YaRN": of_plain}
    largest = {name: float(np.abs(np.asarray(other) - ours).max()) for name, other in differences.items()}
    print(f"factor {factor}: largest difference of a logprob {largest}")
    assert largest["transformers"] <= 2e-5 and largest["SGLang"] <= 2e-5 and largest["without YaRN"] > 1e-2


def chosen(table, tokens):
    return np.take_along_axis(table[:-1], tokens[1:, None].astype(np.int64), -1)[:, 0]
