"""TRL as a contender of `bench.py update`: GRPOTrainer's own loss on padded rows, backward, clipping, AdamW.

In: the folder of the workload. Out: answers to "turn". Runs in the peers' environment.

The trainer is made as its users make it and then given a batch that stands for what it would have generated itself.
What its `training_step` does with such a batch is done here by its own parts: `compute_loss`, `accelerator.backward`,
`clip_grad_norm_`, its optimizer.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from nouscoder_jax.bench.worker import Answers, serve, timed, versions


def make(folder: Path) -> tuple[dict[str, Any], Answers]:
    """The trainer with the workload's weights, and its optimizer step."""
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    with np.load(folder / "batch.npz") as arrays:
        batch = {name: torch.from_numpy(arrays[name]) for name in arrays}
    rows = min(settings["trl_rows"], len(batch["prompt_ids"]))
    num_micro_batches = len(batch["prompt_ids"]) // rows
    trainer = _make_trainer(folder, settings, rows=rows, num_micro_batches=num_micro_batches)
    micro_batches = [_inputs(batch, slice(start * rows, (start + 1) * rows)) for start in range(num_micro_batches)]
    model = trainer.model
    model.train()
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = num_micro_batches

    def step() -> dict[str, Any]:
        loss = 0.0
        for inputs in micro_batches:
            part = trainer.compute_loss(model, inputs)
            trainer.accelerator.backward(part)
            loss += float(part.detach())
        norm = trainer.accelerator.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        trainer.optimizer.step()
        model.zero_grad()
        return {"loss": loss, "grad_norm": float(norm), "work": settings["num_real_tokens"]}

    facts = {"rows_per_micro_batch": rows, "versions": versions("trl", "torch")}
    return facts, {"turn": lambda: timed(step)}


def _make_trainer(folder: Path, settings: dict[str, Any], *, rows: int, num_micro_batches: int) -> GRPOTrainer:
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    words = Tokenizer(WordLevel({str(i): i for i in range(model.config.vocab_size)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1")
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(dir=folder),
        loss_type="dapo",
        beta=0.0,
        epsilon=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        temperature=1.0,
        num_generations=8,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=num_micro_batches,
        steps_per_generation=num_micro_batches,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=settings["beta1"],
        adam_beta2=settings["beta2"],
        adam_epsilon=settings["epsilon"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    # The data and the reward are never looked at: nothing is generated.
    data = Dataset.from_dict({"prompt": ["2"] * 8})
    return GRPOTrainer(
        model=model, reward_funcs=_no_reward, args=config, train_dataset=data, processing_class=tokenizer
    )


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _inputs(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    """A micro-batch as `_generate_and_score_completions` hands it to `compute_loss`."""
    return {
        "prompt_ids": batch["prompt_ids"][rows].long(),
        "prompt_mask": torch.ones_like(batch["prompt_ids"][rows]).long(),
        "completion_ids": batch["completion_ids"][rows].long(),
        "completion_mask": batch["completion_mask"][rows].long(),
        "advantages": batch["advantages"][rows],
        "old_per_token_logps": batch["old_logprobs"][rows],
        "num_items_in_batch": batch["completion_mask"].sum(),
    }


if __name__ == "__main__":
    serve(make)
