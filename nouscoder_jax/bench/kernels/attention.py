"""How fast packed flash attention is, forward and backward: `python scripts/bench.py attention`.

In: options. Out: a table, the target as met or not met, a JSON file where asked for.

On a GPU: one row that is one segment, Pallas beside cuDNN (`jax.nn.dot_product_attention`, which knows no segments);
and a packed row of long-tailed segments, Pallas beside the masked plain reference where its scores fit. Contenders take
turns over rounds, and a ratio compares within a round. FLOPs are those that the mask leaves: 14 head_dim a query-key
pair and head (4 forward, 10 backward). Without a GPU it says so and times the plain implementations on the CPU at a
small size: an interpreted kernel's time means nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nouscoder_jax.bench import in_turn, machine
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, numbers
from nouscoder_jax.bench.results import Report, Target, median, quotients, readable, spread
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


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation on one workload; `attention` has the signature of `model.attention.reference`."""

    name: str
    workload: str
    dtype: Any
    segment_ids: np.ndarray
    attention: Callable[[Array, Array, Array, Array], Array]


@dataclass(kw_only=True)
class Result:
    """A contender's TFLOP/s, one figure a round; `skipped` says why there is none."""

    name: str
    workload: str
    tokens: int
    tflop: float
    skipped: str = ""
    tflop_per_s: list[float] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py attention`."""
    parser.add_argument("--tokens", default="", metavar="N,N", help="row lengths (default: 8192,32768; no GPU: 512)")
    parser.add_argument("--heads", default=40, type=int, help="query heads (default: 40; no GPU: an eighth)")
    parser.add_argument("--kv-heads", default=8, type=int, help="key and value heads (default: 8; no GPU: an eighth)")
    parser.add_argument("--head-dim", default=128, type=int, help="size of a head (default: 128)")
    parser.add_argument("--rounds", default=7, type=int, help="times each contender has its turn (default: 7)")
    parser.add_argument("--quick", action="store_true", help="1 round of the shortest row: does it work?")
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    began = time.monotonic()
    on_gpu = jax.default_backend() == "gpu"
    tokens = _check(options, on_gpu=on_gpu)
    facts = machine.describe(("jax", "jaxlib"))
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "no GPU: plain implementations on the CPU"
    shrink = 1 if on_gpu else 8
    heads, kv_heads = max(1, options.heads // shrink), max(1, options.kv_heads // shrink)
    contenders = [one for length in tokens for one in _contenders(length, on_gpu=on_gpu)]
    results = measure(
        contenders, heads=heads, kv_heads=kv_heads, head_dim=options.head_dim, rounds=options.rounds,
        until=began + _LIMIT_S,
    )  # fmt: skip
    found = report(results, facts)
    settings = {"heads": heads, "kv_heads": kv_heads, "head_dim": options.head_dim, "rounds": options.rounds}
    found.content["settings"] = settings
    found.show(machine.console(width_chars=140))
    found.write(options.out)
    return 0


def long_tailed_segments(tokens: int) -> np.ndarray:
    """One packed row: log-normal lengths around a sixteenth of the row, the same on every run; "rows time"."""
    rng = np.random.default_rng(0)
    ids = np.zeros((1, tokens), np.int32)
    start = number = 0
    while start < tokens:
        length = max(1, int(tokens / 16 * rng.lognormal(0.0, 1.0)))
        number += 1
        ids[0, start : start + length] = number
        start += length
    return ids


def seen_pairs(segment_ids: np.ndarray) -> int:
    """Query-key pairs that the causal mask within segments leaves: n (n + 1) / 2 for a segment of n tokens."""
    total = 0
    for row in segment_ids:
        _, counts = np.unique(row, return_counts=True)
        total += int(np.sum(counts.astype(np.int64) * (counts + 1) // 2))
    return total


def _contenders(tokens: int, *, on_gpu: bool) -> list[Contender]:
    one, packed = np.ones((1, tokens), np.int32), long_tailed_segments(tokens)

    def on(segment_ids: np.ndarray, workload: str, dtype: Any) -> Callable[..., Contender]:
        return lambda name, attention: Contender(
            name=name, workload=f"{workload} {tokens}", dtype=dtype, segment_ids=segment_ids, attention=attention
        )

    if not on_gpu:
        unpacked_row, packed_row = on(one, "unpacked", jnp.float32), on(packed, "packed", jnp.float32)
        both = [("reference", model_attention.reference), ("masked", _masked)]
        return [make(*which) for make in (unpacked_row, packed_row) for which in both]
    unpacked_row, packed_row = on(one, "unpacked", jnp.bfloat16), on(packed, "packed", jnp.bfloat16)
    found = [unpacked_row("cudnn", _cudnn), unpacked_row("pallas", _pallas), packed_row("pallas", _pallas)]
    return found + ([packed_row("masked", _masked)] if tokens <= _MASKED_TOKENS_AT_MOST else [])


def _pallas(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return flash_attention(queries, keys, values, segment_ids, interpret=False)


def _masked(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    return flash_attention_reference(queries, keys, values, segment_ids, interpret=False)


def _cudnn(queries: Array, keys: Array, values: Array, segment_ids: Array) -> Array:
    del segment_ids  # one segment a row
    return jax.nn.dot_product_attention(queries, keys, values, is_causal=True, implementation="cudnn")


def measure(
    contenders: list[Contender], *, heads: int, kv_heads: int, head_dim: int, rounds: int, until: float
) -> list[Result]:
    """A result a contender: compiled and warmed up first, then all in turn; no round starts after `until`."""
    steps = {
        f"{one.workload} {one.name}": _step(one, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        for one in contenders
    }
    timed = in_turn.warmed_up(steps)
    in_turn.measure(steps, timed, rounds=rounds, until=until, at_least_s=_ROUND_S)
    results = []
    for one, found in zip(contenders, timed, strict=True):
        tflop = _FLOPS_A_PAIR * head_dim * heads * seen_pairs(one.segment_ids) / 1e12
        results.append(
            Result(
                name=one.name, workload=one.workload, tokens=one.segment_ids.shape[1], tflop=tflop,
                skipped=found.skipped, tflop_per_s=[tflop / seconds for seconds in found.wall_s],
            )
        )  # fmt: skip
    return results


def _step(one: Contender, *, heads: int, kv_heads: int, head_dim: int) -> Callable[[], Any]:
    """A call that runs forward and backward once and waits for the end."""
    key = jax.random.key(0)
    shapes = [(1, one.segment_ids.shape[1], count, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
    arrays = [jax.random.normal(jax.random.fold_in(key, n), shape, one.dtype) for n, shape in enumerate(shapes)]
    segment_ids = jnp.asarray(one.segment_ids)

    def step(queries: Array, keys: Array, values: Array, d_out: Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v: one.attention(q, k, v, segment_ids), queries, keys, values)
        return out, pull(d_out)

    compiled = jax.jit(step)
    return lambda: jax.block_until_ready(compiled(*arrays))


def ratios(result: Result, results: list[Result]) -> list[float]:
    """TFLOP/s as a multiple of the workload's first contender in the same round; empty where that has none."""
    first = next(one for one in results if one.workload == result.workload)
    return quotients(result.tflop_per_s, first.tflop_per_s)


def report(results: list[Result], facts: dict[str, Any]) -> Report:
    """Every round, the medians, and the target: Pallas beside cuDNN, unpacked."""
    rows, kept, targets = [], [], []
    notes = [f"skipped: {one.workload} {one.name}: {one.skipped}" for one in results if one.skipped]
    for one in results:
        ratio = ratios(one, results)
        figures = {"median_tflop_per_s": median(one.tflop_per_s), "ratio": median(ratio)}
        kept.append(asdict(one) | figures)
        if one.name == "pallas" and one.workload.startswith("unpacked"):
            targets.append(Target(what=f"{one.workload}: x cudnn", goal=_GOAL, got=figures["ratio"]))
        times = [1e3 * one.tflop / speed for speed in one.tflop_per_s]
        cells = [readable(one.tflop), *map(spread, (times, one.tflop_per_s, ratio))]
        rows.append([one.workload, one.name, *(cells if one.tflop_per_s else ["skipped"])])
    return Report(
        bench="attention", facts=facts, title="attention, forward + backward", num_labels=2,
        heads=["workload", "implementation", "TFLOP", "ms", "TFLOP/s", "x first"], rows=rows,
        notes=[*notes, "Median (lowest..highest) of the rounds; FLOPs count what the mask leaves."],
        targets=targets, content={"results": kept},
    )  # fmt: skip


def _check(options: argparse.Namespace, *, on_gpu: bool) -> list[int]:
    """The row lengths."""
    check_numbers(options, "heads", "kv_heads", "head_dim", "rounds")
    check_outputs(options)
    if options.heads % options.kv_heads:
        raise UserError(f"--heads is {options.heads}; use a multiple of --kv-heads, {options.kv_heads}")
    tokens = numbers("tokens", options.tokens or ("8192,32768" if on_gpu else "512"), at_least=1)
    if options.quick:
        options.rounds, tokens = 1, [min(tokens)]
    return tokens
