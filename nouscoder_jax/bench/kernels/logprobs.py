"""How long token logprobs take, value and gradients, beside all logits at once: `python scripts/bench.py logprobs`.

In: options. Out: a table, the targets as met or not met, a JSON file where asked for.

On the CPU: an eighth of the vocabulary in float32, budgets that keep all, most and none of the logits. On a GPU: the
whole vocabulary in bfloat16, and the Pallas kernel. Implementations take turns over rounds, and a ratio compares within
a round; on the CPU it is of CPU time, since another process's share of the machine is not theirs. Where the GPU
compiler is installed (extra `plan`), the temporaries on GPUs that are not here follow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nouscoder_jax.bench import in_turn, machine
from nouscoder_jax.bench.in_turn import Timed
from nouscoder_jax.bench.kernels import logprobs_memory
from nouscoder_jax.bench.kernels.logprobs_memory import Logprobs, Memory, Sizes
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs, numbers
from nouscoder_jax.bench.results import Report, Target, median, quotients, spread
from nouscoder_jax.logprobs import WHOLE, plan_chunks, token_logprobs
from nouscoder_jax.planning.compile import gpu_compiler_missing
from nouscoder_kernels.linear_logprobs import linear_logprobs

GOAL_RATIO = 1.2
"""Of the plain implementation's time, on the CPU at an eighth of the vocabulary."""
GOAL_MIB = 150
"""Of temporaries, at MEMORY_SIZES and MEMORY_LOGITS_MIB."""
MEMORY_SIZES = Sizes(num_tokens=1024, vocab=151936, embed=5120, hidden_dtype="bfloat16", weight_dtype="bfloat16")
MEMORY_LOGITS_MIB = 64
GPUS = ("h100", "b200")
_LIMIT_S = 400.0
"""No further round starts after this: compiling and the last round stay within 8 minutes."""
_PALLAS_CHUNK = 8192


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py logprobs`."""
    parser.add_argument("--tokens", default=1024, type=int, help="tokens of the row (default: 1024)")
    parser.add_argument("--vocab", default=0, type=int, help="vocabulary (default: 151936 on a GPU, else 18992)")
    parser.add_argument("--embed", default=5120, type=int, help="size of a hidden state (default: 5120)")
    parser.add_argument("--logits-mib", default="", metavar="N,N", help="budgets (default: 64,512; no GPU: 80,64,16)")
    parser.add_argument("--rounds", default=5, type=int, help="times each implementation has its turn (default: 5)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the temporaries on other GPUs")
    parser.add_argument("--quick", action="store_true", help="1 round, tiny sizes: does it work?")
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    until = time.monotonic() + _LIMIT_S
    on_gpu = jax.default_backend() == "gpu"
    sizes, budgets = _check(options, on_gpu=on_gpu)
    facts = machine.describe(("jax", "jaxlib"))
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "CPU"
    results = measure(contenders(budgets, pallas=on_gpu), sizes, rounds=options.rounds, until=until)
    missing = "left out by --no-memory" if options.no_memory else gpu_compiler_missing()
    function = partial(chunked, logits_mib=MEMORY_LOGITS_MIB)
    memory = [] if missing else [logprobs_memory.compile_for_gpu(function, MEMORY_SIZES, gpu=gpu) for gpu in GPUS]
    found = report(results, memory, facts, on_gpu=on_gpu)
    found.notes += _notes(results, sizes, budgets)
    found.notes += [f"temporaries on other GPUs: {missing}"] if missing else []
    found.content |= {"settings": asdict(sizes) | {"logits_mib": budgets}, "memory_missing": missing or None}
    found.show(machine.console(width_chars=140))
    found.write(options.out)
    return 0


def plain(hidden: Array, weight: Array, targets: Array) -> tuple[Array, Array]:
    """All logits at once, and jax's own differentiation."""
    logits = jnp.einsum("btd,vd->btv", hidden, weight.astype(hidden.dtype), preferred_element_type=jnp.float32)
    log_p = jax.nn.log_softmax(logits)
    fixed = jax.lax.stop_gradient(log_p)
    entropy = -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)
    return jnp.take_along_axis(log_p, targets[:, :, None], axis=-1)[:, :, 0], entropy


def chunked(hidden: Array, weight: Array, targets: Array, *, logits_mib: int) -> tuple[Array, Array]:
    """Ours."""
    return token_logprobs(hidden, weight, targets, temperature=1.0, logits_mib=logits_mib, shards=WHOLE)


def _pallas(hidden: Array, weight: Array, targets: Array) -> tuple[Array, Array]:
    outputs = linear_logprobs(
        hidden[0], weight, targets[0], temperature=1.0, chunk_vocab=_PALLAS_CHUNK, interpret=False
    )
    return outputs[0][None], outputs[1][None]


def contenders(budgets: list[int], *, pallas: bool) -> dict[str, Logprobs]:
    """Implementations by name; the first is what the others are compared with."""
    found: dict[str, Logprobs] = {"plain": plain}
    found |= {f"chunked {mib} MiB": partial(chunked, logits_mib=mib) for mib in budgets}
    return found | ({"pallas": _pallas} if pallas else {})


def measure(functions: dict[str, Logprobs], sizes: Sizes, *, rounds: int, until: float) -> list[Timed]:
    """A result an implementation: compiled and warmed up first, then all in turn; no round starts after `until`."""
    arrays = _arrays(sizes)

    def step(function: Logprobs) -> Callable[[], Any]:
        compiled = jax.jit(logprobs_memory.with_gradients(function))
        return lambda: jax.block_until_ready(compiled(*arrays))

    steps = {name: step(function) for name, function in functions.items()}
    results = in_turn.warmed_up(steps)
    in_turn.measure(steps, results, rounds=rounds, until=until)
    return results


def _arrays(sizes: Sizes) -> tuple[Array, ...]:
    (hidden, hidden_dtype), (weight, weight_dtype), (row, _), _ = sizes.shapes()
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], hidden, hidden_dtype),
        jax.random.normal(keys[1], weight, weight_dtype) * jnp.asarray(sizes.embed**-0.5, weight_dtype),
        jax.random.randint(keys[2], row, 0, sizes.vocab),
        jnp.ones(row, jnp.float32),
    )


def ratios(result: Timed, results: list[Timed], figure: str) -> list[float]:
    """`wall_s` or `cpu_s` as a multiple of the first implementation's in the same round; empty where one has none."""
    return quotients(getattr(result, figure), getattr(results[0], figure))


def report(results: list[Timed], memory: list[Memory], facts: dict[str, Any], *, on_gpu: bool) -> Report:
    """Every round, medians of ratios, temporaries, and the targets."""
    rows, kept, targets = [], [], []
    for one in results:
        ratio = {figure: ratios(one, results, figure) for figure in ("wall_s", "cpu_s")}
        kept.append(asdict(one) | {f"{figure}_ratio": median(values) for figure, values in ratio.items()})
        if not on_gpu and one.name.startswith("chunked"):
            what = f"{one.name}: CPU time / plain's"
            targets.append(Target(what=what, goal=GOAL_RATIO, got=median(ratio["cpu_s"]), at_least=False))
        columns = [[1e3 * value for value in values] for values in (one.wall_s, one.cpu_s)]
        rows.append([one.name, *(["skipped"] if one.skipped else map(spread, [*columns, *ratio.values()]))])
    for one in memory:
        for what, goal, got in (
            ("MiB of temporaries", GOAL_MIB, one.temp_bytes / 2**20),
            ("arrays of all logits", 0, len(one.all_logits)),
        ):
            targets.append(Target(what=f"{one.gpu}: {what}", goal=goal, got=got, at_least=False))
    return Report(
        bench="logprobs", facts=facts, title="logprobs and entropy, value and gradients",
        heads=["implementation", "ms", "CPU ms", "ms / plain's", "CPU / plain's"], rows=rows,
        targets=targets, content={"results": kept, "memory": [asdict(one) for one in memory]},
    )  # fmt: skip


def _notes(results: list[Timed], sizes: Sizes, budgets: list[int]) -> list[str]:
    lines = [f"skipped: {one.name}: {one.skipped}" for one in results if one.skipped]
    for mib in budgets:
        chunks = plan_chunks(num_tokens=sizes.num_tokens, vocab_rows=sizes.vocab, embed=sizes.embed, logits_mib=mib)
        parts = chunks.num + bool(chunks.tail)
        kept = parts if chunks.kept == chunks.num else chunks.kept
        lines.append(f"chunked {mib} MiB: {parts} chunks of {chunks.rows} words, logits of {kept} kept")
    return [*lines, f"{sizes}; {len(results[0].wall_s)} rounds; median (lowest..highest)"]


def _check(options: argparse.Namespace, *, on_gpu: bool) -> tuple[Sizes, list[int]]:
    """Sizes and budgets."""
    options.vocab = options.vocab or (151936 if on_gpu else 18992)
    check_numbers(options, "tokens", "vocab", "embed", "rounds")
    check_outputs(options)
    budgets = numbers("logits-mib", options.logits_mib or ("64,512" if on_gpu else "80,64,16"), at_least=1)
    if options.quick:
        options.rounds, options.tokens, options.vocab, options.embed, budgets = 1, 256, 2048, 64, [1]
    dtype = "bfloat16" if on_gpu else "float32"
    sizes = Sizes(
        num_tokens=options.tokens, vocab=options.vocab, embed=options.embed, hidden_dtype=dtype, weight_dtype=dtype
    )
    return sizes, budgets
