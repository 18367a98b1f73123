"""google-tunix as a contender of `bench.py update`: its Qwen3, its GRPO loss, its trainer's jitted train step.

In: the folder of the workload. Out: answers to "turn". Runs in the peers' environment.

tunix takes packed rows too, but only its TPU attention kernel looks at segments, so that on a CPU its rows are padded.
One micro-batch: its trainer averages the token means of micro-batches, which is another loss than the batch's.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.models.qwen3.model import ModelConfig
from tunix.models.qwen3.params import create_model_from_safe_tensors
from tunix.rl import algo_core, common
from tunix.rl.grpo.dapo_learner import DAPOConfig
from tunix.rl.trainer import Trainer
from tunix.sft.peft_trainer import TrainingConfig

from nouscoder_jax.bench.worker import Answers, serve, timed, versions


def make(folder: Path) -> tuple[dict[str, Any], Answers]:
    """The trainer with the workload's weights, and its train step."""
    settings = json.loads((folder / "settings.json").read_text())
    config = json.loads((folder / "model" / "config.json").read_text())
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = create_model_from_safe_tensors(str(folder / "model"), _model_config(config), mesh, dtype=jnp.float32)
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings["max_grad_norm"]),
        optax.adamw(
            settings["learning_rate"],
            b1=settings["beta1"],
            b2=settings["beta2"],
            eps=settings["epsilon"],
            weight_decay=settings["weight_decay"],
        ),
    )
    training = TrainingConfig(eval_every_n_steps=1_000_000, max_steps=1_000_000)
    trainer = Trainer(model, optimizer, training, custom_checkpoint_metadata_fn=dict)
    algorithm = DAPOConfig(
        num_generations=8, epsilon=settings["clip_low"], epsilon_high=settings["clip_high"], overlong_buffer=None
    )
    algorithm.temperature = 1.0

    def loss(model: Any, train_example: Any, algo_config: Any) -> Any:
        return algo_core.grpo_loss_fn(model, train_example, algo_config, 0, 1)

    trainer.with_loss_fn(loss, has_aux=True)
    trainer.with_gen_model_input_fn(lambda example: {"train_example": example, "algo_config": algorithm})
    train_step, _ = trainer.jit_train_and_eval_step()
    example = _example(folder)

    def step() -> dict[str, Any]:
        out = train_step(example)
        jax.block_until_ready(jax.tree.leaves(trainer.optimizer))
        return {"loss": float(out[0]), "grad_norm": float(out[2]), "work": settings["num_real_tokens"]}

    return {"versions": versions("google-tunix", "jax", "flax")}, {"turn": lambda: timed(step)}


def _model_config(config: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        num_kv_heads=config["num_key_value_heads"],
        rope_theta=int(config["rope_theta"]),
        norm_eps=config["rms_norm_eps"],
        use_tied_embedding=config["tie_word_embeddings"],
    )


def _example(folder: Path) -> common.TrainExample:
    """The batch as the learner's `_generate_and_compute_advantage` hands it to the trainer."""
    with np.load(folder / "batch.npz") as arrays:
        batch = {name: jnp.asarray(arrays[name]) for name in arrays}
    return common.TrainExample(
        prompt_ids=batch["prompt_ids"],
        prompt_mask=batch["prompt_ids"] != 0,
        completion_ids=batch["completion_ids"],
        completion_mask=batch["completion_mask"],
        advantages=batch["advantages"],
        ref_per_token_logps=None,
        old_per_token_logps=batch["old_logprobs"],
    )


if __name__ == "__main__":
    serve(make)
