"""The one workload that all contenders of `bench.py update` train on: a small Qwen3 and a batch of rollouts.

In: a seed. Out: a folder with model (Hugging Face), batch.npz (padded, for every contender alike) and settings.json.
Sequences are long-tailed, 24 to 256 tokens, 12,000 in all. Old logprobs lie near those of fresh weights, so that ratios
fall on both sides of both clips and the loss is a number worth comparing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import OptimizerConfig, TrainConfig
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.qwen3 import INITIALIZER_RANGE
from nouscoder_jax.model.weights import abstract_model, save_model
from nouscoder_jax.types import Completion, Experience, Prompt, Rollout

ARCHITECTURE = Architecture(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    rope_theta=1e6,
    rope_scaling=None,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    attention_bias=False,
    max_position_embeddings=4096,
)
"""5.77 million parameters, 1.05 million of them the embedding: as in a real Qwen3 the output layer weighs about as much
as a layer or two."""

QUICK_ARCHITECTURE = dataclasses.replace(
    ARCHITECTURE, vocab_size=512, hidden_size=64, intermediate_size=128, num_layers=2, head_dim=16
)

NUM_SEQUENCES, QUICK_SEQUENCES = 128, 16
TINY_CONFIG = Path(__file__).parents[3] / "configs" / "tiny.py"
PROMPT_TOKENS = 8
SHORTEST_TOKENS, LONGEST_TOKENS = 24, 256
_TAIL_TOKENS = 73.7
"""Mean of the exponential that lengths follow above the shortest: 128 of them, cut at the longest, add up to 12,000."""
GROUP_SIZE = 8

SETTINGS = {
    "learning_rate": 1e-5,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "clip_low": 0.2,
    "clip_high": 0.28,
    "row_tokens": 1024,
    "rows_per_micro_batch": 4,
    "trl_rows": 8,
}
"""DAPO's loss (mean over all completion tokens of the batch, no KL term), AdamW, constant learning rate. Ours: packed
rows, of which the batch fills three micro-batches; TRL's rows of a micro-batch."""


_OPTIMIZER_FIELDS = [field.name for field in dataclasses.fields(OptimizerConfig) if field.name in SETTINGS]


class Padded(NamedTuple):
    """The batch as padded-row trainers take it: a prompt and a completion a row, completions padded on the right."""

    prompt_ids: Int32[np.ndarray, "sequences prompt"]
    completion_ids: Int32[np.ndarray, "sequences completion"]
    """0 is padding; no real token is 0."""
    completion_mask: Bool[np.ndarray, "sequences completion"]
    advantages: Float32[np.ndarray, " sequences"]
    old_logprobs: Float32[np.ndarray, "sequences completion"]

    @property
    def num_real_tokens(self) -> int:
        """Prompts and completions, without padding."""
        return int(self.prompt_ids.size + self.completion_mask.sum())


def lengths(num_sequences: int) -> Int[np.ndarray, " sequences"]:
    """Tokens of each sequence, prompt included: quantiles of an exponential above the shortest, cut at the longest."""
    share = (np.arange(num_sequences) + 0.5) / num_sequences
    tail = np.minimum(-_TAIL_TOKENS * np.log1p(-share), LONGEST_TOKENS - SHORTEST_TOKENS)
    return np.round(SHORTEST_TOKENS + tail).astype(np.int64)


def make_batch(num_sequences: int, *, vocab_size: int, seed: int) -> Padded:
    """Random tokens, groups of GROUP_SIZE that share a prompt, normal advantages; the same seed, the same batch."""
    rng = np.random.default_rng(seed)
    num_tokens = rng.permutation(lengths(num_sequences)) - PROMPT_TOKENS
    prompts = rng.integers(1, vocab_size, (-(-num_sequences // GROUP_SIZE), PROMPT_TOKENS))
    shape = (num_sequences, int(num_tokens.max()))
    mask = np.arange(shape[1])[None] < num_tokens[:, None]
    # Fresh weights give every token about -log(vocab); a deviation of 0.25 spreads ratios over both clips.
    old_logprobs = rng.normal(-math.log(vocab_size), 0.25, shape)
    return Padded(
        prompt_ids=np.repeat(prompts, GROUP_SIZE, axis=0)[:num_sequences].astype(np.int32),
        completion_ids=np.where(mask, rng.integers(1, vocab_size, shape), 0).astype(np.int32),
        completion_mask=mask,
        advantages=rng.normal(size=num_sequences).astype(np.float32),
        old_logprobs=np.where(mask, old_logprobs, 0.0).astype(np.float32),
    )


def write(folder: Path, *, quick: bool, settings: dict[str, Any]) -> int:
    """Writes everything that a contender reads; `settings` come on top of SETTINGS. Returns the batch's real tokens."""
    architecture = QUICK_ARCHITECTURE if quick else ARCHITECTURE
    batch = make_batch(QUICK_SEQUENCES if quick else NUM_SEQUENCES, vocab_size=architecture.vocab_size, seed=0)
    write_model(folder, architecture)
    np.savez(folder / "batch.npz", **batch._asdict())
    settings = SETTINGS | settings | {"num_real_tokens": batch.num_real_tokens}
    (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    return batch.num_real_tokens


def write_model(folder: Path, architecture: Architecture) -> None:
    """Fresh weights drawn by NumPy, so that it compiles nothing: normal of std 0.02, norms 1."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        if "norm" in jax.tree_util.keystr(path):
            return np.ones(leaf.shape, np.float32)
        return rng.normal(0.0, INITIALIZER_RANGE, leaf.shape).astype(np.float32)

    model = jax.tree.map_with_path(draw, abstract_model(architecture))
    save_model(model, architecture, folder / "model", dtype="float32", tokenizer_dir=None)


def read_batch(folder: Path) -> Padded:
    """The batch that `write` wrote."""
    with np.load(folder / "batch.npz") as arrays:
        return Padded(**{name: arrays[name] for name in Padded._fields})


def to_experiences(batch: Padded) -> list[Experience]:
    """The same sequences as this project's carriers."""
    experiences = []
    for row, mask in enumerate(batch.completion_mask):
        old_logprobs = tuple(batch.old_logprobs[row][mask].tolist())
        completion = Completion(
            token_ids=tuple(batch.completion_ids[row][mask].tolist()),
            behavior_logprobs=old_logprobs,
            finish_reason="stop",
            policy_version=0,
        )
        prompt = Prompt(problem_id="", token_ids=tuple(batch.prompt_ids[row].tolist()))
        rollout = Rollout(
            group_id=row // GROUP_SIZE, sample_index=row, prompt=prompt, completion=completion, text="", program=None
        )
        experiences.append(
            Experience(
                rollout=rollout, verdict=None, reward=None, advantage=float(batch.advantages[row]), trainable=True
            )
        )
    return experiences


def make_config(settings: dict[str, Any]) -> TrainConfig:
    """configs/tiny.py with the workload's objective and optimizer, and rows of `settings["row_tokens"]`."""
    config = load_config_file(TINY_CONFIG)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, compute_dtype="float32", remat="none"),
        data=dataclasses.replace(config.data, max_prompt_tokens=PROMPT_TOKENS),
        rollout=dataclasses.replace(config.rollout, max_completion_tokens=LONGEST_TOKENS - PROMPT_TOKENS),
        experience=dataclasses.replace(
            config.experience,
            row_tokens=settings["row_tokens"],
            rows_per_micro_batch=settings["rows_per_micro_batch"],
        ),
        # The workload's old logprobs are not those of the policy: with a limit on drift, no update would be applied.
        loss=dataclasses.replace(
            config.loss,
            name="dapo",
            clip_low=settings["clip_low"],
            clip_high=settings["clip_high"],
            max_drift_mean=0.0,
            max_drift=0.0,
        ),
        optimizer=dataclasses.replace(
            config.optimizer, warmup_updates=0, **{name: settings[name] for name in _OPTIMIZER_FIELDS}
        ),
    )
