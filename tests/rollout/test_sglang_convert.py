"""A real SGLang server loads what conversion gives back."""

import shutil

import httpx
import numpy as np
import pytest
from real_servers import PROMPT, PYTHON, Process, reference_logprobs

from nouscoder_jax.training import convert

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a server starts in 15 s, on a busy machine in minutes
]


@pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
def test_a_server_of_the_converted_folder_gives_transformers_logprobs(checkpoints, tmp_path):
    import torch
    import transformers

    source, back = tmp_path / "hf", tmp_path / "back"
    transformers.Qwen3ForCausalLM.from_pretrained(checkpoints["b"].folder, dtype=torch.bfloat16).save_pretrained(
        source, max_shard_size="100KB"
    )
    shutil.copyfile(checkpoints["b"].folder / "config.json", source / "config.json")  # with the keys of version 4
    convert.from_hf(source, tmp_path / "ours", say=lambda line: None)
    convert.to_hf(tmp_path / "ours", back, dtype="keep", step="latest", max_shard_gb=None, say=lambda line: None)
    assert len(list(back.glob("*.safetensors"))) > 1
    model = transformers.Qwen3ForCausalLM.from_pretrained(source, dtype=torch.float32)
    arguments = ["-m", "sglang.launch_server", "--model-path", str(back), "--device", "cpu", "--dtype", "float32"]
    arguments += ["--attention-backend", "torch_native", "--grammar-backend", "none", "--max-total-tokens", "4096"]
    arguments += ["--skip-server-warmup", "--skip-tokenizer-init", "--sleep-on-idle"]
    server = Process(arguments, tmp_path / "server", ready=lambda answer: answer.status_code == 200)
    server.start()
    try:
        server.wait()
        assert httpx.get(f"{server.url}/model_info", timeout=10).json()["model_path"] == str(back)
        for seed in range(4):
            request = {"input_ids": list(PROMPT.token_ids), "return_logprob": True}
            request["sampling_params"] = {"max_new_tokens": 12, "ignore_eos": True, "sampling_seed": seed}
            answer = httpx.post(f"{server.url}/generate", json=request, timeout=60).json()
            logprobs, tokens = zip(*(one[:2] for one in answer["meta_info"]["output_token_logprobs"]), strict=True)
            assert len(tokens) == 12
            np.testing.assert_allclose(logprobs, reference_logprobs(model, tokens), atol=1e-4)
    finally:
        server.kill()
