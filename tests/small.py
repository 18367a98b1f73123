"""The small config and the small model of all tests: a new field of either breaks this place and no other."""

import dataclasses
from pathlib import Path

from nouscoder_jax.cli import load_config_file
from nouscoder_jax.config import MeshConfig, TrainConfig
from nouscoder_jax.model.architecture import Architecture

ROOT = Path(__file__).resolve().parents[1]


def make_config(**changes) -> TrainConfig:
    """configs/tiny.py with other fields: make_config(num_steps=3, loss={"name": "gspo"})."""
    return change(load_config_file(ROOT / "configs" / "tiny.py"), **changes)


def change(config: TrainConfig, **changes) -> TrainConfig:
    """Other fields; those of a section as a dict."""
    whole = {
        name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **whole)


def make_mesh_config(data=1, fsdp=1, tensor=1) -> MeshConfig:
    """Of one process."""
    return dataclasses.replace(make_config().mesh, data=data, fsdp=fsdp, tensor=tensor)


def make_architecture(**changes) -> Architecture:
    """Qwen3 with 30 thousand parameters, with other fields."""
    fields = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 16, "rope_theta": 1e6, "rope_scaling": None, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "attention_bias": False, "max_position_embeddings": 256,
    }  # fmt: skip
    return Architecture(**(fields | changes))


def qwen3_14b(**changes) -> Architecture:
    """https://huggingface.co/Qwen/Qwen3-14B/blob/main/config.json, with other fields."""
    fields = {
        "vocab_size": 151936, "hidden_size": 5120, "intermediate_size": 17408, "num_layers": 40, "num_heads": 40,
        "num_kv_heads": 8, "head_dim": 128, "tie_word_embeddings": False, "max_position_embeddings": 40960,
    }  # fmt: skip
    return make_architecture(**(fields | changes))
