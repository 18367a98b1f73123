"""A Hugging Face directory as one callable: `model = load_model(path); logits = model(tokens)`.

In: a folder with config.json and *.safetensors; token ids "rows time". Out: float32 logits "rows time vocab". The way
in for people and notebooks; the training loop uses model/weights.py and model/qwen3.py directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float32, Int

from nouscoder_jax.config import UserError
from nouscoder_jax.model import qwen3, weights
from nouscoder_jax.model.qwen3 import Architecture, Qwen3

COMPUTE_DTYPES = ("float32", "bfloat16")


class CausalLM(nnx.Module):
    """A Qwen3 with its weights, called like a function. A pytree: it goes through `jax.jit` and `jax.grad` as an
    argument, and the gradient is a CausalLM of the same shape.

    Example:
        model = load_model("Qwen3-0.6B")
        logits = model([[9707, 11, 1879]])
    """

    weights: Qwen3
    """Every parameter, float32, names as in model/qwen3.py."""
    compute_dtype: str
    """Dtype of activations and of weights at their use."""

    def __init__(self, weights: Qwen3, *, compute_dtype: str):
        self.weights = weights
        self.compute_dtype = compute_dtype

    @property
    def architecture(self) -> Architecture:
        """Sizes and constants, as config.json states them."""
        return self.weights.architecture

    def __call__(
        self, tokens: Any, *, segment_ids: Any = None, positions: Any = None
    ) -> Float32[Array, "rows time vocab"]:
        """Returns logits: at each position, of the token after it. Nothing is padded; each new shape compiles once.

        Args:
            tokens: "rows time", whole numbers below the vocabulary's size: NumPy, jax or a list of equally long lists.
                No length is refused; past `max_position_embeddings` the model was not trained.
            segment_ids: "rows time", for rows that hold several sequences: a token sees earlier tokens of the same
                number. None: each row is one sequence.
            positions: "rows time". None: 0, 1, 2, ... from the start of each sequence.

        Raises:
            UserError: not "rows time", no whole numbers, or a token outside the vocabulary (which under `jax.jit`
                nobody can see).
        """
        tokens = _whole_numbers("tokens", tokens)
        _check_range(tokens, self.architecture.vocab_size)
        if segment_ids is None:
            segment_ids = np.ones(tokens.shape, np.int32)
        segment_ids = _whole_numbers("segment_ids", segment_ids)
        positions = _positions(segment_ids) if positions is None else _whole_numbers("positions", positions)
        for name, array in (("segment_ids", segment_ids), ("positions", positions)):
            if array.shape != tokens.shape:
                raise UserError(f"{name} has shape {array.shape}, tokens {tokens.shape}; give both the same")
        return _logits(self, *(jnp.asarray(array, jnp.int32) for array in (tokens, segment_ids, positions)))


def load_model(path: Path | str, *, compute_dtype: str = "float32") -> CausalLM:
    """Returns the model of a Hugging Face directory, ready to be called, its weights on jax's default device.

    `compute_dtype` "float32" agrees with transformers to 1e-4 in every logit; "bfloat16" is faster on a GPU. Weights
    are kept in float32 either way: 4 bytes a parameter, 59 GB for Qwen3-14B.

    Raises:
        UserError: no config.json, an architecture that is not a dense Qwen3, a truncated file, or a missing, unexpected
            or misshapen tensor; it names the file or the tensor.
    """
    if compute_dtype not in COMPUTE_DTYPES:
        raise UserError(f"compute_dtype is {compute_dtype!r}; use {' or '.join(COMPUTE_DTYPES)}")
    _, model = weights.load_model(path)
    return CausalLM(jax.tree.map(jnp.asarray, model), compute_dtype=compute_dtype)


@jax.jit
def _logits(
    model: CausalLM, tokens: Int[Array, "rows time"], segment_ids: Int[Array, "rows time"], positions: Array
) -> Float32[Array, "rows time vocab"]:
    hidden = qwen3.forward(
        model.weights,
        tokens,
        positions,
        segment_ids,
        compute_dtype=model.compute_dtype,
        attention="reference",
        remat="layer",  # of two gradients the one that lets long rows fit
    )
    return qwen3.logits(hidden, qwen3.output_embedding(model.weights))


def _whole_numbers(name: str, values: Any) -> np.ndarray | jax.Array:
    """Returns "rows time" integers. Raises UserError for anything else."""
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise UserError(f'{name} has rows of different lengths; "rows time" was expected, pad them') from error
    if values.ndim != 2:
        fix = f"; one sequence is {name}[None]" if values.ndim == 1 else ""
        raise UserError(f'{name} has shape {values.shape}; "rows time" was expected{fix}')
    if 0 in values.shape:
        raise UserError(f"{name} has shape {values.shape}; at least one row of one token was expected")
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise UserError(f"{name} has dtype {values.dtype}; whole numbers were expected, for example int32")
    return values


def _check_range(tokens: np.ndarray | jax.Array, vocab_size: int) -> None:
    """Raises UserError for a token that the vocabulary lacks: XLA would take another one without a word."""
    if isinstance(tokens, Tracer):
        return
    values = np.asarray(tokens)
    wrong = np.argwhere((values < 0) | (values >= vocab_size))
    if len(wrong):
        row, time = (int(index) for index in wrong[0])
        raise UserError(
            f"tokens[{row}, {time}] is {values[row, time]}; the vocabulary has {vocab_size} tokens, "
            f"0 to {vocab_size - 1} were expected"
        )


def _positions(segment_ids: np.ndarray | jax.Array) -> Int[Array, "rows time"]:
    """Returns 0, 1, 2, ... from the start of each segment."""
    index = jnp.broadcast_to(jnp.arange(segment_ids.shape[1]), segment_ids.shape)
    starts = jnp.diff(jnp.asarray(segment_ids), axis=1, prepend=segment_ids[:, :1]) != 0
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
