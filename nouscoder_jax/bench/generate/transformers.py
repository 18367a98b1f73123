"""transformers as a contender of `bench.py generate`: `generate` on torch, and the judge of everyone's logprobs.

In: the folder of the workload. Out: answers to "turn"; to "check", the largest difference between the logprobs
that each contender gave and those of one forward pass over the same tokens.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from nouscoder_jax.bench.generate.workload import PROMPT_TOKENS, Generated, Request, answers
from nouscoder_jax.bench.worker import Answers, serve, versions

_ROWS = 8
"""Sequences of one forward pass of the check: logits of all at once would take gigabytes of a larger model."""


class Transformers:
    """The model, for generating and for checking."""

    def make(self, folder: Path) -> tuple[dict[str, Any], Answers]:
        """Reads the folder; what it can be asked."""
        num_threads = int(os.environ["OMP_NUM_THREADS"])
        torch.set_num_threads(num_threads)
        self.folder = folder
        # Any: the stubs of transformers do not know their own `generate`.
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
        facts = {"threads": num_threads, "versions": versions("transformers", "torch")}
        return facts, {**answers(sys.argv[1], folder, self.generate), "check": self.check}

    @torch.inference_mode()
    def generate(self, requests: list[Request]) -> list[Generated]:
        """One call of `generate`: requests of one length."""
        num_tokens = requests[0].num_tokens
        torch.manual_seed(requests[0].seed)
        prompts = torch.tensor([request.prompt for request in requests])
        out = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=num_tokens,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logprobs = self.model.compute_transition_scores(out.sequences, out.logits, normalize_logits=True)
        ids = out.sequences[:, PROMPT_TOKENS:].tolist()
        return [Generated(*one) for one in zip(ids, logprobs.tolist(), strict=True)]

    @torch.inference_mode()
    def check(self) -> dict[str, float]:
        """Contender -> the largest difference of a logprob, in nats."""
        found = {}
        for path in sorted(self.folder.glob("*.npz")):
            with np.load(path) as arrays:
                tokens, logprobs = torch.from_numpy(arrays["tokens"]), arrays["logprobs"]
            differences = []
            for rows in range(0, len(tokens), _ROWS):
                part = tokens[rows : rows + _ROWS]
                log_p = self.model(part).logits[:, PROMPT_TOKENS - 1 : -1].double().log_softmax(-1)
                expected = log_p.gather(2, part[:, PROMPT_TOKENS:, None])[:, :, 0].numpy()
                differences.append(np.max(np.abs(expected - logprobs[rows : rows + _ROWS])))
            found[path.stem] = float(max(differences))
        return found


if __name__ == "__main__":
    serve(Transformers().make)
