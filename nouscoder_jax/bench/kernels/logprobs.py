"""How long token logprobs take, value and gradients, beside all logits at once: `python scripts/bench.py logprobs`.

In: options. Out: a table, the targets as met or not met, a JSON file where asked for.

On the CPU: an eighth of the vocabulary in float32, budgets that keep all, most and none of the logits. On a GPU: the
whole vocabulary in bfloat16, and the Pallas kernel. Implementations take turns over rounds, and a ratio compares within
a round; on the CPU it is of CPU time, since another process's share of the machine is not theirs. Where the GPU
compiler is installed (extra `plan`), the temporaries on GPUs that are not here follow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.judge.table import readable
from nouscoder_jax.bench.kernels import logprobs_memory
from nouscoder_jax.bench.kernels.logprobs_memory import Logprobs, Memory, Sizes
from nouscoder_jax.config import UserError
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


@dataclass(kw_only=True)
class Result:
    """One implementation; seconds, one figure a round. `skipped` says why there is none."""

    name: str
    skipped: str = ""
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of this process, all threads; means nothing for work on a GPU."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py logprobs`."""
    parser.add_argument("--tokens", default=1024, type=int, help="tokens of the row (default: 1024)")
    parser.add_argument("--vocab", default=0, type=int, help="vocabulary (default: 151936 on a GPU, else 18992)")
    parser.add_argument("--embed", default=5120, type=int, help="size of a hidden state (default: 5120)")
    parser.add_argument("--logits-mib", default="", metavar="N,N", help="budgets (default: 64,512; no GPU: 80,64,16)")
    parser.add_argument("--rounds", default=5, type=int, help="times each implementation has its turn (default: 5)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the temporaries on other GPUs")
    parser.add_argument("--quick", action="store_true", help="1 round, tiny sizes: does it work?")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every round as JSON")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    until = time.monotonic() + _LIMIT_S
    on_gpu = jax.default_backend() == "gpu"
    sizes, budgets = _check(options, on_gpu=on_gpu)
    console = machine.console(width_chars=140)
    facts = machine.describe(("jax", "jaxlib"))
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "CPU"
    results = measure(contenders(budgets, pallas=on_gpu), sizes, rounds=options.rounds, until=until)
    missing = "left out by --no-memory" if options.no_memory else gpu_compiler_missing()
    function = partial(chunked, logits_mib=MEMORY_LOGITS_MIB)
    memory = [] if missing else [logprobs_memory.compile_for_gpu(function, MEMORY_SIZES, gpu=gpu) for gpu in GPUS]
    content = {"bench": "logprobs", **facts, "settings": asdict(sizes) | {"logits_mib": budgets}}
    content |= to_dict(results, memory, on_gpu=on_gpu) | {"memory_missing": missing or None}
    _report(results, sizes, content, console)
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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


def measure(functions: dict[str, Logprobs], sizes: Sizes, *, rounds: int, until: float) -> list[Result]:
    """A result an implementation: compiled and warmed up first, then all in turn; no round starts after `until`."""
    arrays = _arrays(sizes)
    results, steps = [Result(name=name) for name in functions], []
    for result, function in zip(results, functions.values(), strict=True):
        step = jax.jit(logprobs_memory.with_gradients(function))
        steps.append(partial(_seconds, step, arrays))
        try:
            steps[-1]()
        except (RuntimeError, ValueError) as error:  # that this machine cannot run one is a result
            result.skipped = " ".join(str(error).split())[:200]
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        turn = number % len(results)
        for at in [*range(turn, len(results)), *range(turn)]:
            if not results[at].skipped:
                wall_s, cpu_s = steps[at]()
                results[at].wall_s.append(wall_s)
                results[at].cpu_s.append(cpu_s)
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


def _seconds(step: Callable[..., Any], arrays: tuple[Array, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(step(*arrays))
    return time.perf_counter() - wall, time.process_time() - cpu


def ratios(result: Result, results: list[Result], figure: str) -> list[float]:
    """`wall_s` or `cpu_s` as a multiple of the first implementation's in the same round; empty where one has none."""
    return [mine / theirs for mine, theirs in zip(getattr(result, figure), getattr(results[0], figure), strict=False)]


def to_dict(results: list[Result], memory: list[Memory], *, on_gpu: bool) -> dict[str, Any]:
    """Every round, medians of ratios, temporaries, and the targets."""
    found: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for result in results:
        middles = {
            f"{figure}_ratio": statistics.median(values) if (values := ratios(result, results, figure)) else None
            for figure in ("wall_s", "cpu_s")
        }
        found.append(asdict(result) | middles)
        if not on_gpu and result.name.startswith("chunked"):
            got = middles["cpu_s_ratio"]
            met = None if got is None else got <= GOAL_RATIO
            targets.append({"what": f"{result.name}: CPU time / plain's", "goal": GOAL_RATIO, "got": got, "met": met})
    for one in memory:
        mib = one.temp_bytes / 2**20
        met = mib <= GOAL_MIB and not one.all_logits
        targets.append({"what": f"{one.gpu}: MiB of temporaries", "goal": GOAL_MIB, "got": mib, "met": met})
    return {"results": found, "memory": [asdict(one) for one in memory], "targets": targets}


def _report(results: list[Result], sizes: Sizes, content: dict[str, Any], console: Console) -> None:
    table = Table(title="logprobs and entropy, value and gradients", title_justify="left")
    table.add_column("implementation", no_wrap=True)
    for head in ("ms", "CPU ms", "ms / plain's", "CPU / plain's"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in results:
        if one.skipped:
            table.add_row(one.name, "skipped", style="dim")
            continue
        columns = [[1e3 * value for value in values] for values in (one.wall_s, one.cpu_s)]
        columns += [ratios(one, results, figure) for figure in ("wall_s", "cpu_s")]
        table.add_row(one.name, *(_spread(values) for values in columns))
    console.print(table)
    for one in results:
        if one.skipped:
            console.print(f"skipped: {one.name}: {one.skipped}", markup=False)
    for mib in content["settings"]["logits_mib"]:
        chunks = plan_chunks(num_tokens=sizes.num_tokens, vocab_rows=sizes.vocab, embed=sizes.embed, logits_mib=mib)
        parts = chunks.num + bool(chunks.tail)
        kept = parts if chunks.kept == chunks.num else chunks.kept
        console.print(f"chunked {mib} MiB: {parts} chunks of {chunks.rows} words, logits of {kept} kept")
    for target in content["targets"]:
        told = {True: "met", False: "NOT MET", None: "not measured"}[target["met"]]
        got = "-" if target["got"] is None else readable(target["got"])
        console.print(f"target: {target['what']} <= {target['goal']}: {got} {told}", markup=False)
    if content["memory_missing"]:
        console.print(f"temporaries on other GPUs: {content['memory_missing']}", markup=False)
    console.print(f"{sizes}; {len(results[0].wall_s)} rounds; median (lowest..highest)", markup=False)
    facts = [str(content[name]) for name in ("date", "commit", "device", "hardware", "versions")]
    console.print(", ".join(facts), markup=False)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{readable(statistics.median(values))} ({readable(min(values))}..{readable(max(values))})"


def _check(options: argparse.Namespace, *, on_gpu: bool) -> tuple[Sizes, list[int]]:
    """Sizes and budgets."""
    options.vocab = options.vocab or (151936 if on_gpu else 18992)
    for name in ("tokens", "vocab", "embed", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; use 1 or more")
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"--out got {options.out}; its folder does not exist, make it first")
    words = (options.logits_mib or ("64,512" if on_gpu else "80,64,16")).split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"--logits-mib got {options.logits_mib!r}; use MiB, 1 or more, with commas between, like 64,16")
    if options.quick:
        options.rounds, options.tokens, options.vocab, options.embed, words = 1, 256, 2048, 64, ["1"]
    dtype = "bfloat16" if on_gpu else "float32"
    sizes = Sizes(
        num_tokens=options.tokens, vocab=options.vocab, embed=options.embed, hidden_dtype=dtype, weight_dtype=dtype
    )
    return sizes, list(dict.fromkeys(int(word) for word in words))
