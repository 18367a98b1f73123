"""Sizes and constants of a Qwen3, as its config.json states them.

In: a parsed config.json of transformers 4 or 5. Out: `Architecture`, and a config.json that both read. No jax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
            vocab_size=_size(config, "vocab_size"),
            hidden_size=_size(config, "hidden_size"),
            intermediate_size=_size(config, "intermediate_size"),
            num_layers=_size(config, "num_hidden_layers"),
            num_heads=_size(config, "num_attention_heads"),
            num_kv_heads=_size(config, "num_key_value_heads"),
            head_dim=_size(config, "head_dim"),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=_number(config, "rms_norm_eps"),
            # transformers' own defaults of Qwen3Config, which it may leave out of a config.json
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            max_position_embeddings=_size(config, "max_position_embeddings"),
        )
        if architecture.head_dim % 2:
            raise UserError(f"config.json has head_dim {architecture.head_dim}; rope turns pairs, it must be even")
        if architecture.num_heads % architecture.num_kv_heads:
            raise UserError(
                f"config.json has num_attention_heads {architecture.num_heads} and num_key_value_heads "
                f"{architecture.num_kv_heads}; the first must be a multiple of the second"
            )
        return architecture

    def stretched(self, factor: float, *, original_tokens: int) -> Architecture:
        """Returns the same with YaRN over `original_tokens` positions, as Qwen3 sets it; factor 1: unchanged."""
        if factor == 1:
            return self
        yarn = Yarn(
            factor=factor,
            original_max_position_embeddings=original_tokens,
            beta_fast=32.0,
            beta_slow=1.0,
            attention_factor=attention_factor(factor),
            truncate=True,
        )
        return replace(self, rope_scaling=yarn, max_position_embeddings=int(factor * original_tokens))

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


def _size(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key)
    if value is None:
        raise UserError(f"config.json lacks {key}; a Qwen3 config.json as transformers writes it has it")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config.json has {key} {value!r}; a whole number of 1 or more was expected")
    return value


def _number(fields: dict[str, Any], key: str) -> float:
    value = fields.get(key)
    if value is None:
        raise UserError(f"config.json lacks {key}; a Qwen3 config.json as transformers writes it has it")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"config.json has {key} {value!r}; a number above 0 was expected")
    return float(value)


def _check_supported(config: dict[str, Any]) -> None:
    """Raises UserError for what would make another function of the same weights."""
    if config.get("model_type") != "qwen3":
        raise UserError(
            f"config.json has model_type {config.get('model_type')!r}; only dense Qwen3 ('qwen3') is supported"
        )
    if config.get("architectures") not in (None, [], ["Qwen3ForCausalLM"]):
        raise UserError(
            f"config.json has architectures {config['architectures']}; only ['Qwen3ForCausalLM'] is supported"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"config.json has hidden_act {config['hidden_act']!r}; only 'silu' is supported")
    if config.get("use_sliding_window", False):
        raise UserError("config.json has use_sliding_window true; only full attention is supported, set it to false")
    other = set(config.get("layer_types") or ()) - {"full_attention", "attention"}
    if other:
        raise UserError(f"config.json has layer_types {sorted(other)}; only 'full_attention' is supported")
    if not config.get("is_causal", True):
        raise UserError("config.json has is_causal false; only causal attention is supported")
    if config.get("quantization_config"):
        raise UserError(
            "config.json has a quantization_config; quantised weights are not supported, take the bfloat16 original"
        )


def _rope(config: dict[str, Any]) -> tuple[float, Yarn | None]:
    """Returns theta and scaling. Raises UserError where `rope_scaling` and `rope_parameters` say different things:
    transformers 5 follows the first then, others the second."""
    dialects = {}
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if rope is not None and not isinstance(rope, dict):
            raise UserError(f"config.json has {key} {rope!r}; an object with rope_type was expected")
        if rope:
            dialects[key] = _rope_of(rope, config)
    if len(set(dialects.values())) > 1:
        raise UserError(
            f"config.json has a rope_scaling and a rope_parameters that differ, {config['rope_scaling']} and "
            f"{config['rope_parameters']}; make them say the same, or delete one"
        )
    return next(iter(dialects.values())) if dialects else _rope_of({}, config)


def _rope_of(rope: dict[str, Any], config: dict[str, Any]) -> tuple[float, Yarn | None]:
    """Returns theta and scaling of one dialect's object; its own rope_theta counts before the one beside it."""
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise UserError("config.json lacks rope_theta, alone or in rope_parameters; Qwen3 was trained with 1000000")
    theta = _number({"rope_theta": theta}, "rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    unknown = rope.keys() - {"rope_theta", "rope_type", "type", "partial_rotary_factor", *_YARN_FIELDS}
    if unknown:
        raise UserError(f"config.json has {sorted(unknown)} in its rope fields; only default rope and yarn are known")
    for fields in (rope, config):
        if fields.get("partial_rotary_factor") not in (None, 1):
            raise UserError(
                f"config.json has partial_rotary_factor {fields['partial_rotary_factor']}; Qwen3 turns whole heads"
            )
    if kind == "default":
        return theta, None
    if kind != "yarn":
        raise UserError(f"config.json has rope_type {kind!r}; 'default' and 'yarn' are supported")
    return theta, _yarn(rope, config)


_YARN_FIELDS = (
    *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"),
    *("mscale", "mscale_all_dim"),
)


def _yarn(rope: dict[str, Any], config: dict[str, Any]) -> Yarn:
    """Returns YaRN's constants, defaults as in huggingface/transformers modeling_rope_utils.py."""
    if rope.get("factor") is None:
        raise UserError("config.json asks for yarn without a factor; give one, for example 4.0")
    factor = _number(rope, "factor")
    own_scale = rope.get("attention_factor")
    if own_scale is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        raise UserError(
            "config.json has mscale in its rope scaling, which Qwen3 has not; give attention_factor instead"
        )
    # transformers looks beside the rope fields first, then in them, and takes max_position_embeddings otherwise
    name = "original_max_position_embeddings"
    where = next((fields for fields in (config, rope) if fields.get(name) is not None), None)
    original = _size(config, "max_position_embeddings") if where is None else _size(where, name)
    return Yarn(
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=_number({"beta_fast": rope.get("beta_fast") or 32}, "beta_fast"),
        beta_slow=_number({"beta_slow": rope.get("beta_slow") or 1}, "beta_slow"),
        attention_factor=attention_factor(factor) if own_scale is None else _number(rope, "attention_factor"),
        truncate=bool(rope.get("truncate", True)),
    )
