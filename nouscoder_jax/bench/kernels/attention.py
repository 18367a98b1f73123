"""How fast packed flash attention is, forward and backward: `python scripts/bench.py attention`.

In: options. Out: a table, the target as met or not met, a JSON file where asked for.

On a GPU: one row that is one segment, Pallas beside cuDNN (`jax.nn.dot_product_attention`, which knows no segments);
and a packed row of long-tailed segments, Pallas beside the masked plain reference where its scores fit. FLOPs are those
that the mask leaves: 14 head_dim a query-key pair and head (4 forward, 10 backward). Without a GPU it says so and times
the plain implementations on the CPU at a small size: an interpreted kernel's time means nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.options import add_rounds, at_least, numbers
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.config import UserError
from nouscoder_jax.model import attention as model_attention
from nouscoder_kernels.flash_attention import flash_attention, flash_attention_reference

_FLOPS_A_PAIR = 14
_GOAL = 0.9
"""Of cuDNN's speed, on one unpacked causal row."""
_LIMIT_S = 420.0
"""No further round starts after this: compiling and the last round stay within 8 minutes."""
_MASKED_TOKENS_AT_MOST = 8_192
"""A longer row's scores do not fit beside the rest: heads x time x time float32."""
_ROUND_S = 0.2
"""How long a contender runs in one round, at least."""

Attention = Callable[[Array, Array, Array, Array], Array]
"""(queries, keys, values, segment_ids) -> out, as `model.attention.reference`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py attention`."""
    parser.add_argument("--tokens", type=numbers(1), metavar="N,N", help="default: 8192,32768; no GPU: 512")
    parser.add_argument("--heads", default=40, type=at_least(1), help="query heads (default: 40; no GPU: an eighth)")
    parser.add_argument("--kv-heads", default=8, type=at_least(1), help="of keys and values (default: 8)")
    parser.add_argument("--head-dim", default=128, type=at_least(1), help="size of a head (default: 128)")
    add_rounds(parser, rounds=7, quick="the shortest row")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    began, on_gpu = time.monotonic(), jax.default_backend() == "gpu"
    if options.heads % options.kv_heads:
        raise UserError(f"--heads is {options.heads}; use a multiple of --kv-heads, {options.kv_heads}")
    options.tokens = options.tokens or ([8192, 32768] if on_gpu else [512])
    if options.quick:
        options.rounds, options.tokens = 1, [min(options.tokens)]
    shrink = 1 if on_gpu else 8
    sizes = max(1, options.heads // shrink), max(1, options.kv_heads // shrink), options.head_dim
    facts = machine.describe(("jax", "jaxlib"))
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "no GPU: plain implementations on the CPU"
    contenders = [one for tokens in options.tokens for one in make_contenders(tokens, sizes, on_gpu=on_gpu)]
    rounds.take_turns(contenders, rounds=options.rounds, until=began + _LIMIT_S, at_least_s=_ROUND_S)
    report(contenders, facts).finish(options)
    return 0


def long_tailed_segments(tokens: int) -> np.ndarray:
    """One packed row: log-normal lengths around a sixteenth of the row, the same on every run; "rows time"."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(1, tokens / 16 * rng.lognormal(0.0, 1.0, 256)).astype(int)
    return np.repeat(np.arange(1, 257, dtype=np.int32), lengths)[None, :tokens]


def seen_pairs(segment_ids: np.ndarray) -> int:
    """Query-key pairs that the causal mask within segments leaves: n (n + 1) / 2 for a segment of n tokens."""
    counts = [np.unique(row, return_counts=True)[1].astype(np.int64) for row in segment_ids]
    return int(sum(np.sum(one * (one + 1) // 2) for one in counts))


def make_contenders(tokens: int, sizes: tuple[int, int, int], *, on_gpu: bool) -> list[Contender]:
    """Of one unpacked and one packed row; the first of each is what the others are compared with."""
    one, packed = np.ones((1, tokens), np.int32), long_tailed_segments(tokens)
    if on_gpu:
        found: list[tuple[str, Attention, np.ndarray]] = [
            ("unpacked cudnn", _cudnn, one),
            ("unpacked pallas", _pallas, one),
            ("packed pallas", _pallas, packed),
        ]
        found += [("packed masked", _masked, packed)] if tokens <= _MASKED_TOKENS_AT_MOST else []
    else:
        found = [
            (f"{row} {name}", attention, ids)
            for row, ids in (("unpacked", one), ("packed", packed))
            for name, attention in (("reference", model_attention.reference), ("masked", _masked))
        ]
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    return [
        contender(f"{tokens} {name}", attention, ids, sizes=sizes, dtype=dtype) for name, attention, ids in found
    ]  # fmt: skip


def contender(
    name: str, attention: Attention, segment_ids: np.ndarray, *, sizes: tuple[int, int, int], dtype: Any
) -> Contender:
    """A turn runs forward and backward once and waits for the end. `sizes`: heads, kv_heads, head_dim."""
    heads, kv_heads, head_dim = sizes
    shapes = [(1, segment_ids.shape[1], count, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
    ids = jnp.asarray(segment_ids)

    @jax.jit
    def step(queries: Array, keys: Array, values: Array, d_out: Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, ids), queries, keys, values)
        return out, pull(d_out)

    key = jax.random.key(0)
    arrays = [jax.random.normal(jax.random.fold_in(key, n), shape, dtype) for n, shape in enumerate(shapes)]
    tflop = _FLOPS_A_PAIR * head_dim * heads * seen_pairs(segment_ids) / 1e12
    return Contender(name=name, turn=lambda: _wait(step(*arrays)), work=tflop)


def _wait(arrays: Any) -> None:
    jax.block_until_ready(arrays)


def _pallas(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return flash_attention(queries, keys, values, segment_ids, interpret=False)


def _masked(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return flash_attention_reference(queries, keys, values, segment_ids, interpret=False)


def _cudnn(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    del segment_ids  # one segment a row
    return jax.nn.dot_product_attention(queries, keys, values, is_causal=True, implementation="cudnn")


def report(contenders: list[Contender], facts: dict[str, Any]) -> Report:
    """A row a contender, and the target: Pallas beside cuDNN, unpacked."""

    def first(one: Contender) -> str:
        row = one.name.rpartition(" ")[0]
        return next(other.name for other in contenders if other.name.startswith(row))

    figures = {"TFLOP/s": ("speed", 1.0), "ms": ("wall_s", 1e3), "TFLOP": ("work", 1.0)}
    found = Report(bench="attention", facts=facts, **rounds.table(contenders, figures, reference=first))
    for one in contenders:
        if one.name.endswith("unpacked pallas"):
            got = rounds.ratio(rounds.find(contenders, one.name), rounds.find(contenders, first(one)))
            found.targets.append(Target(what=f"{one.name}: x cudnn", goal=_GOAL, got=got))
    return found
