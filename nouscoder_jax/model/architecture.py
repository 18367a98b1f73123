"""Sizes and constants of a Qwen3, as its config.json states them.

In: a parsed config.json of transformers 4 or 5. Out: `Architecture`, and a config.json that both read. No jax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.model.rope import Yarn, attention_factor


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides the function a Qwen3 computes, apart from its weights. Hashable: static under jit.

    Example:
        Architecture(vocab_size=512, hidden_size=128, intermediate_size=384, num_layers=6, num_heads=4, num_kv_heads=2,
                     head_dim=32, rope_theta=1e6, rope_scaling=None, rms_norm_eps=1e-6, tie_word_embeddings=True,
                     attention_bias=False, max_position_embeddings=4096)
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rope_scaling: Yarn | None
    rms_norm_eps: float
    tie_word_embeddings: bool
    """The output embedding is the input embedding."""
    attention_bias: bool
    """The four attention projections add a bias."""
    max_position_embeddings: int

    @staticmethod
    def from_hf(config: dict[str, Any]) -> Architecture:
        """Returns the architecture of a parsed config.json, `rope_parameters` (transformers 5) or `rope_theta` +
        `rope_scaling` (transformers 4).

        Raises:
            UserError: not a dense Qwen3, a part that is not supported, or a missing or contradicting field, named.
        """
        _check_supported(config)
        theta, scaling = _rope(config)
        architecture = Architecture(
            vocab_size=_required(config, "vocab_size"),
            hidden_size=_required(config, "hidden_size"),
            intermediate_size=_required(config, "intermediate_size"),
            num_layers=_required(config, "num_hidden_layers"),
            num_heads=_required(config, "num_attention_heads"),
            num_kv_heads=_required(config, "num_key_value_heads"),
            head_dim=_required(config, "head_dim"),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=float(_required(config, "rms_norm_eps")),
            # transformers' own defaults of Qwen3Config, which it may leave out of a config.json
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            max_position_embeddings=_required(config, "max_position_embeddings"),
        )
        if architecture.num_heads % architecture.num_kv_heads:
            raise UserError(
                f"config.json has num_attention_heads {architecture.num_heads} and num_key_value_heads "
                f"{architecture.num_kv_heads}; the first must be a multiple of the second"
            )
        return architecture

    def to_hf(self) -> dict[str, Any]:
        """Returns the config.json of this architecture with the rope in both dialects."""
        scaling: dict[str, Any] | None = None
        if self.rope_scaling is not None:
            yarn = self.rope_scaling
            scaling = {
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_max_position_embeddings,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "attention_factor": yarn.attention_factor,
                "truncate": yarn.truncate,
            }
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "max_position_embeddings": self.max_position_embeddings,
            "use_sliding_window": False,
            "sliding_window": None,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "rope_parameters": {"rope_theta": self.rope_theta, **(scaling or {"rope_type": "default"})},
        }


def _required(config: dict[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise UserError(f"config.json lacks {key}; a Qwen3 config.json as transformers writes it has it")
    return config[key]


def _check_supported(config: dict[str, Any]) -> None:
    if config.get("model_type") != "qwen3":
        raise UserError(
            f"config.json has model_type {config.get('model_type')!r}; only dense Qwen3 ('qwen3') is supported"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"config.json has hidden_act {config['hidden_act']!r}; only 'silu' is supported")
    if config.get("use_sliding_window", False):
        raise UserError("config.json has use_sliding_window true; only full attention is supported, set it to false")


def _rope(config: dict[str, Any]) -> tuple[float, Yarn | None]:
    """Returns theta and scaling. Where both dialects are there, transformers 5's `rope_parameters` counts."""
    rope = dict(config.get("rope_scaling") or {})
    rope.update(config.get("rope_parameters") or {})
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise UserError("config.json lacks rope_theta, alone or in rope_parameters; Qwen3 was trained with 1000000")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "yarn":
        raise UserError(f"config.json has rope_type {kind!r}; 'default' and 'yarn' are supported")
    if rope.get("factor") is None:
        raise UserError("config.json asks for yarn without a factor; give one, for example 4.0")
    if "mscale" in rope or "mscale_all_dim" in rope:
        raise UserError(
            "config.json has mscale in its rope scaling, which Qwen3 has not; give attention_factor instead"
        )
    factor = float(rope["factor"])
    own_scale = rope.get("attention_factor")
    return float(theta), Yarn(
        factor=factor,
        original_max_position_embeddings=rope.get("original_max_position_embeddings")
        or _required(config, "max_position_embeddings"),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention_factor=attention_factor(factor) if own_scale is None else float(own_scale),
        truncate=bool(rope.get("truncate", True)),
    )
