"""What token logprobs take of a GPU's memory that is not here: temporaries, by the real GPU compiler.

In: an implementation, sizes, a GPU's name. Out: `Memory`: bytes of temporaries beside inputs, weight, results and the
weight gradient, and the arrays of tokens x vocabulary that the program still has. Needs the extra `plan`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from nouscoder_jax.planning.compile import gpu_devices
from nouscoder_jax.planning.fleet import Fleet, find_gpu

Logprobs = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(hidden "rows time embed", weight "vocab embed", targets "rows time") -> (logprobs, entropy), "rows time" each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """One row of `num_tokens` tokens.

    Example:
        Sizes(num_tokens=1024, vocab=151936, embed=5120, dtype="bfloat16")
    """

    num_tokens: int
    vocab: int
    embed: int
    dtype: str
    """Of hidden states and weight."""

    def arguments(self, sharding: Any = None) -> list[jax.ShapeDtypeStruct]:
        """Hidden, weight, targets and the logprobs' cotangent."""
        row = (1, self.num_tokens)
        shapes = (((*row, self.embed), self.dtype), ((self.vocab, self.embed), self.dtype), (row, "int32"))
        return [jax.ShapeDtypeStruct(*one, sharding=sharding) for one in (*shapes, (row, "float32"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one compiled program.

    Example:
        Memory(gpu="h100", temp_bytes=103_557_128, all_logits=[])
    """

    gpu: str
    temp_bytes: int
    all_logits: list[str]
    """Types of arrays with as many elements as all logits, as the program spells them."""


def with_gradients(function: Logprobs) -> Callable[..., tuple[tuple[Array, Array], tuple[Array, Array]]]:
    """(hidden, weight, targets, cotangent of logprobs) -> ((logprobs, entropy), (d hidden, d weight))."""

    def step(hidden: Array, weight: Array, targets: Array, cotangent: Array) -> Any:
        outputs, pull = jax.vjp(lambda h, w: function(h, w, targets), hidden, weight)
        return outputs, pull((cotangent, jnp.zeros_like(cotangent)))

    return step


def compile_for_gpu(function: Logprobs, sizes: Sizes, *, gpu: str) -> Memory:
    """Compiles value and gradients for one GPU of this name. Raises UserError for a GPU that has no description."""
    (device,) = gpu_devices(Fleet(gpu=find_gpu(gpu), num_gpus=1))
    arguments = sizes.arguments(SingleDeviceSharding(device))
    compiled = jax.jit(with_gradients(function)).trace(*arguments).lower(lowering_platforms=("cuda",)).compile()
    memory, program = compiled.memory_analysis(), compiled.as_text()
    if memory is None or program is None:
        raise ValueError("the compiler told no memory or program; expected both of a compiled function")
    found = arrays_of_all_logits(program, num_tokens=sizes.num_tokens, vocab=sizes.vocab)
    return Memory(gpu=gpu, temp_bytes=memory.temp_size_in_bytes, all_logits=found)


def arrays_of_all_logits(program: str, *, num_tokens: int, vocab: int) -> list[str]:
    """Every array type in the program's text whose dims hold both numbers, like `f32[1024,151936]`; each once."""
    types = set(re.findall(r"\b[a-z]+[0-9]*\[[0-9,]+\]", program))
    return sorted(one for one in types if {num_tokens, vocab} <= set(map(int, re.findall(r"\d+", one.split("[")[1]))))
