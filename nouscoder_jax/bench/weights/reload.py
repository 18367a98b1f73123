"""What `bench.py export --sglang-python PYTHON` adds: a server takes the exported weights while it generates.

In: a Python with SGLang, a folder that was exported, something that exports it anew. Out: `Reload`: seconds from the
export's end to the next version being served, checked; tokens/s before, while files are written, while they are loaded.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.server_process import ServerProcess, check_python
from nouscoder_jax.rollout.sglang import SGLangEngine
from nouscoder_jax.types import Prompt, Sampling

START_S = 600.0
"""Seconds that the server may take to start."""
CALM_S = 5.0
"""Seconds of generation that the others are compared with; exports fill at least as many."""
NUM_REQUESTS, PROMPT_TOKENS, COMPLETION_TOKENS = 8, 16, 16
"""Under way all the time; short, so that tokens are counted soon after they are sampled."""
_FLAGS = (
    "--device cpu --dtype float32 --attention-backend torch_native --grammar-backend none --sleep-on-idle "
    "--skip-tokenizer-init --skip-server-warmup --context-length 512 --max-total-tokens 4096 --host 127.0.0.1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """How a server fared with new weights.

    Example:
        Reload(gb_per_s=0.9, reload_s=2.2, export_s=3.1, tokens_per_s=120.0, tokens_per_s_export=80.0,
               tokens_per_s_reload=0.0)
    """

    gb_per_s: float
    """Bytes of the folder over reload_s."""
    reload_s: float
    """Folder checked, loaded in place, checksums compared."""
    export_s: float
    """An export beside which the server generated, mean of those that fill CALM_S."""
    tokens_per_s: float
    tokens_per_s_export: float
    tokens_per_s_reload: float


def measure_reload(python: str, folder: Path, *, num_bytes: int, export: Callable[[], Any]) -> Reload:
    """Starts a server of `folder` on the CPU, generates, exports and reloads it, stops it. Raises UserError where the
    server does not start."""
    check_python(python)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "sglang.launch_server", "--model-path", str(folder), "--port", str(port), *_FLAGS.split()]
    server = ServerProcess(
        url=f"http://127.0.0.1:{port}",
        arguments=command,
        variables={"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        log=folder.parent / "server.log",
    )
    server.launch()
    try:
        until = time.monotonic() + START_S
        while not server.answers():
            if server.exit_code() is not None or time.monotonic() > until:
                raise UserError(f"--sglang-python {python}: the server did not start: {server.reason()}")
            time.sleep(0.5)
        return asyncio.run(_measure(server.url, folder, num_bytes=num_bytes, export=export))
    finally:
        server.end()
        server.gone()


async def _measure(url: str, folder: Path, *, num_bytes: int, export: Callable[[], Any]) -> Reload:
    engine = SGLangEngine(
        [url],
        num_slots=NUM_REQUESTS,
        request_timeout_s=600.0,
        server_timeout_s=600.0,
        outage_limit_s=600.0,
        on_new_weights="in_place",
        eos_token_ids=(0,),
        context_tokens=PROMPT_TOKENS + COMPLETION_TOKENS,
        say=lambda text: None,
    )
    await engine.reload(folder, policy_version=0)
    exports = 0
    writers = [asyncio.create_task(_write(engine, number)) for number in range(NUM_REQUESTS)]
    try:

        def export_all() -> None:
            nonlocal exports
            until = time.perf_counter() + CALM_S
            while not exports or time.perf_counter() < until:
                export()
                exports += 1

        async def rate(work: Awaitable[None]) -> tuple[float, float]:
            before, start = engine.tokens_generated, time.perf_counter()
            await work
            seconds = time.perf_counter() - start
            return seconds, (engine.tokens_generated - before) / seconds

        await asyncio.sleep(1.0)
        _, calm = await rate(asyncio.sleep(CALM_S))
        exports_s, during_export = await rate(asyncio.to_thread(export_all))
        reload_s, during_reload = await rate(engine.reload(folder, policy_version=1))
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await engine.close()
    return Reload(
        gb_per_s=num_bytes / 1e9 / reload_s,
        reload_s=reload_s,
        export_s=exports_s / exports,
        tokens_per_s=calm,
        tokens_per_s_export=during_export,
        tokens_per_s_reload=during_reload,
    )


async def _write(engine: SGLangEngine, number: int) -> None:
    """Asks for one completion after another."""
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=COMPLETION_TOKENS, seed=number)
    prompt = Prompt(problem_id="bench", token_ids=tuple(range(1 + number, 1 + number + PROMPT_TOKENS)))
    while True:
        await engine.generate(prompt, sampling)
