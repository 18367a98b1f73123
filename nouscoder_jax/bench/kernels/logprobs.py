"""How long token logprobs take, value and gradients, beside all logits at once: `python scripts/bench.py logprobs`.

In: options. Out: a table, the targets as met or not met, a JSON file where asked for.

On the CPU: an eighth of the vocabulary in float32, budgets that keep all, most and none of the logits. On a GPU: the
whole vocabulary in bfloat16, and the Pallas kernel. Where the GPU compiler is installed (extra `plan`), the temporaries
on GPUs that are not here follow.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.kernels import logprobs_memory
from nouscoder_jax.bench.kernels.logprobs_memory import Logprobs, Memory, Sizes
from nouscoder_jax.bench.options import add_rounds, at_least, numbers
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.logprobs import WHOLE, token_logprobs
from nouscoder_jax.planning.compile import gpu_compiler_missing
from nouscoder_kernels.linear_logprobs import linear_logprobs

GOAL_RATIO = 1.2
"""Of the plain implementation's time, on the CPU at an eighth of the vocabulary."""
GOAL_MIB = 150
"""Of temporaries, at MEMORY_SIZES and MEMORY_LOGITS_MIB."""
MEMORY_SIZES = Sizes(num_tokens=1024, vocab=151936, embed=5120, dtype="bfloat16")
MEMORY_LOGITS_MIB = 64
GPUS = ("h100", "b200")
_LIMIT_S = 400.0
"""No further round starts after this: compiling and the last round stay within 8 minutes."""
_PALLAS_CHUNK = 8192


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py logprobs`."""
    parser.add_argument("--tokens", default=1024, type=at_least(1), help="tokens of the row (default: 1024)")
    parser.add_argument("--vocab", type=at_least(1), help="vocabulary (default: 151936 on a GPU, else 18992)")
    parser.add_argument("--embed", default=5120, type=at_least(1), help="size of a hidden state (default: 5120)")
    parser.add_argument("--logits-mib", type=numbers(1), help="budgets (default: 64,512; no GPU: 80,64,16)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the temporaries on other GPUs")
    add_rounds(parser, rounds=5, quick="tiny sizes")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    until, on_gpu = time.monotonic() + _LIMIT_S, jax.default_backend() == "gpu"
    vocab = options.vocab or (151936 if on_gpu else 18992)
    budgets = options.logits_mib or ([64, 512] if on_gpu else [80, 64, 16])
    sizes = Sizes(
        num_tokens=options.tokens, vocab=vocab, embed=options.embed, dtype="bfloat16" if on_gpu else "float32"
    )
    if options.quick:
        options.rounds, budgets, sizes = 1, [1], Sizes(num_tokens=256, vocab=2048, embed=64, dtype=sizes.dtype)
    facts = machine.describe(("jax", "jaxlib"))
    facts["device"] = jax.devices()[0].device_kind if on_gpu else "CPU"
    contenders = make_contenders(budgets, sizes, pallas=on_gpu)
    rounds.take_turns(contenders, rounds=options.rounds, until=until)
    missing = "left out by --no-memory" if options.no_memory else gpu_compiler_missing()
    function = partial(chunked, logits_mib=MEMORY_LOGITS_MIB)
    memory = [] if missing else [logprobs_memory.compile_for_gpu(function, MEMORY_SIZES, gpu=gpu) for gpu in GPUS]
    found = report(contenders, memory, facts, on_gpu=on_gpu)
    found.notes += [str(sizes), *([f"temporaries on other GPUs: {missing}"] if missing else [])]
    found.finish(options)
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


def implementations(budgets: list[int], *, pallas: bool) -> dict[str, Logprobs]:
    """By name; the first is what the others are compared with."""
    found: dict[str, Logprobs] = {"plain": plain}
    found |= {f"chunked {mib} MiB": partial(chunked, logits_mib=mib) for mib in budgets}
    return found | ({"pallas": _pallas} if pallas else {})


def make_contenders(budgets: list[int], sizes: Sizes, *, pallas: bool) -> list[Contender]:
    """A turn computes value and gradients once."""
    arrays = random_arrays(sizes)

    def contender(name: str, function: Logprobs) -> Contender:
        compiled = jax.jit(logprobs_memory.with_gradients(function))

        def turn() -> None:
            jax.block_until_ready(compiled(*arrays))

        return Contender(name=name, turn=turn)

    return [contender(*one) for one in implementations(budgets, pallas=pallas).items()]


def random_arrays(sizes: Sizes) -> tuple[Array, ...]:
    """Hidden, weight, targets and the logprobs' cotangent."""
    hidden, weight, row, _ = (one.shape for one in sizes.arguments())
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], hidden, sizes.dtype),
        jax.random.normal(keys[1], weight, sizes.dtype) * jnp.asarray(sizes.embed**-0.5, sizes.dtype),
        jax.random.randint(keys[2], row, 0, sizes.vocab),
        jnp.ones(row, jnp.float32),
    )


def report(contenders: list[Contender], memory: list[Memory], facts: dict[str, Any], *, on_gpu: bool) -> Report:
    """A row an implementation, temporaries, and the targets: on the CPU of CPU time, since another process's share of
    the machine is not theirs."""
    figures = {"ms": ("wall_s", 1e3), "CPU ms": ("cpu_s", 1e3)}
    parts = rounds.table(contenders, figures, reference=lambda one: "plain", ratio_of=("wall_s", "cpu_s"))
    found = Report(bench="logprobs", facts=facts, **parts)
    found.content["memory"] = [asdict(one) for one in memory]
    plain_ones = rounds.find(contenders, "plain")
    for one in contenders:
        if one.name.startswith("chunked") and not on_gpu:
            got = rounds.ratio(rounds.find(contenders, one.name), plain_ones, "cpu_s")
            what = f"{one.name}: CPU time / plain's"
            found.targets.append(Target(what=what, goal=GOAL_RATIO, got=got, at_least=False))
    for one in memory:
        mib, arrays = one.temp_bytes / 2**20, len(one.all_logits)
        for what, goal, got in (("MiB of temporaries", GOAL_MIB, mib), ("arrays of all logits", 0, arrays)):
            found.targets.append(Target(what=f"{one.gpu}: {what}", goal=goal, got=got, at_least=False))
    return found
