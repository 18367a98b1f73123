"""Sizes of the dense Qwen3 models, and what follows from an architecture without compiling.

In: a model path, or hub id, from the config. Out: its `Architecture`; counts of parameters and FLOPs. The table holds
the facts of the config.json of each model on the hub (Qwen/Qwen3-0.6B to -32B), so that a plan needs no download.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nouscoder_jax.config import UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import read_config

_TABLE = {
    # hidden, intermediate, layers, heads, kv heads, tied
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, True),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, False),
    "qwen3-14b": (5120, 17408, 40, 40, 8, False),
    "qwen3-32b": (5120, 25600, 64, 64, 8, False),
}


def find_architecture(path: str) -> Architecture:
    """The architecture of a Hugging Face directory, or of a hub id `ORGANISATION/Qwen3-SIZE` from the table.

    Raises:
        UserError: neither of the two, or a config.json that cannot be used.
    """
    if Path(path).is_dir():
        return Architecture.from_hf(read_config(Path(path)))
    name = path.rpartition("/")[2].lower().removesuffix("-base")
    if name not in _TABLE:
        known = ", ".join(f"Qwen/Qwen3-{name.rpartition('-')[2].upper()}" for name in _TABLE)
        raise UserError(f"model.path {path} is no directory here, and its sizes are not known; known are {known}")
    hidden, intermediate, layers, heads, kv_heads, tied = _TABLE[name]
    return Architecture(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        rope_theta=1e6,
        rope_scaling=None,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        attention_bias=False,
        max_position_embeddings=40960,
    )


def layer_matrix_parameters(a: Architecture) -> int:
    """Parameters of all layers' matrices: those that every token is multiplied with."""
    attention = 2 * a.hidden_size * (a.num_heads + a.num_kv_heads) * a.head_dim
    return a.num_layers * (attention + 3 * a.hidden_size * a.intermediate_size)


def parameter_count(a: Architecture) -> int:
    """All parameters; a tied output embedding counts once."""
    vectors = 2 * a.hidden_size + 2 * a.head_dim
    if a.attention_bias:
        vectors += (a.num_heads + 2 * a.num_kv_heads) * a.head_dim + a.hidden_size
    embeddings = a.vocab_size * a.hidden_size * (1 if a.tie_word_embeddings else 2)
    return layer_matrix_parameters(a) + a.num_layers * vectors + embeddings + a.hidden_size


def kv_bytes_per_token(a: Architecture) -> int:
    """Bytes of keys and values that one token keeps in bfloat16, over all layers."""
    return 2 * a.num_layers * a.num_kv_heads * a.head_dim * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of a pass over some tokens; a multiply-add is two.

    Example:
        Flops(layers=1.1e15, attention=3.4e14, logits=6.4e13)
    """

    layers: float
    """Products with the layers' matrices."""
    attention: float
    """Scores and weighted values, the causal half."""
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.layers + self.attention + self.logits

    def times(self, *, layers: float, attention: float, logits: float) -> Flops:
        """Each part so many times."""
        return Flops(layers=self.layers * layers, attention=self.attention * attention, logits=self.logits * logits)


def forward_flops(a: Architecture, *, num_tokens: int, sequence_tokens: float) -> Flops:
    """A forward pass with logits over rows packed from sequences of `sequence_tokens`.

    A sequence of s tokens takes 4 s^2/2 x heads x head_dim a layer for its scores and weighted values (causal: half),
    so its tokens take 2 s heads head_dim each. Norms, rope and softmax are left out, as is usual.
    """
    return Flops(
        layers=2.0 * layer_matrix_parameters(a) * num_tokens,
        attention=2.0 * a.num_layers * a.num_heads * a.head_dim * sequence_tokens * num_tokens,
        logits=2.0 * a.vocab_size * a.hidden_size * num_tokens,
    )


def model_flops(forward: Flops) -> Flops:
    """Forward and backward pass as MFU counts them (arXiv:2204.02311): three forward passes, nothing recomputed."""
    return forward.times(layers=3.0, attention=3.0, logits=3.0)


def executed_flops(forward: Flops, *, remat: str) -> Flops:
    """Forward and backward pass as they are run: logits are made once, with their gradient; the backward pass of flash
    attention takes 2.5 times its forward pass (arXiv:2205.14135); remat "layer" runs each layer once more."""
    again = 0.0 if remat == "none" else 1.0
    return forward.times(layers=3.0 + again, attention=3.5 + again, logits=3.0)
