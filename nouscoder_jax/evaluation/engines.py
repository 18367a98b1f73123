"""The engine that an evaluation draws with.

In: a config, whose model.path may be the address of servers. Out: what is evaluated (Source), an Engine of it.

    model         rollout.engine    rollout.urls    what draws
    DIR           embedded                          this process
    DIR           sglang            none            servers that are started here and stopped at the end
    DIR           sglang            given           these servers, which load DIR first
    URL[,URL]                                       these servers, with the weights that they have
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.hub import find_model
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.servers import Servers
from nouscoder_jax.rollout.sglang import SGLangEngine
from nouscoder_jax.rollout.sglang_calls import ask_at_start, router_workers
from nouscoder_jax.types import EngineError

QWEN3_FACTOR, QWEN3_TOKENS = 2.5, 32_768
"""YaRN of Qwen3 past its own positions, where no factor is set: 81,920 tokens of prompt and completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is evaluated.

    Example:
        Source(config=config, name="http://127.0.0.1:30000", urls=("http://127.0.0.1:30000",), as_served=True)
    """

    config: TrainConfig
    """model.path is a directory or hub id: of the tokenizer at least."""
    name: str
    """The model as it was asked for."""
    urls: tuple[str, ...] = ()
    """Servers that run; none: the embedded engine, or servers that `serving` starts."""
    as_served: bool = False
    """The servers' weights are not changed."""


def make_source(config: TrainConfig, *, tokenizer: str, say: Callable[[str], None]) -> Source:
    """What model.path names, a directory or addresses of servers. `tokenizer`: a directory in place of the model's own.

    Sets YaRN for engines that are started here, where the context asked for needs it, and says so. Raises UserError.
    """
    name = config.model.path
    if name.startswith(("http://", "https://")):
        urls = tuple(url.rstrip("/") for url in name.split(","))
        model = replace(config.model, path=tokenizer or _served_folder(urls))
        rollout = replace(config.rollout, engine="sglang", urls=urls)
        return Source(config=replace(config, model=model, rollout=rollout), name=name, urls=urls, as_served=True)
    if tokenizer:
        raise UserError(
            f"--tokenizer got {tokenizer}, but the model {name} is no address of a server and has its own; leave it out"
        )
    if config.rollout.engine == "sglang" and config.rollout.urls:
        return Source(config=config, name=name, urls=config.rollout.urls)
    return Source(config=_stretched(config, say=say), name=name)


@contextlib.contextmanager
def serving(source: Source, *, say: Callable[[str], None]) -> Iterator[Source]:
    """The source with its servers: where it needs some and names none, they run while the block does. Raises
    UserError."""
    if source.config.rollout.engine == "embedded" or source.urls:
        yield source
        return
    log_dir = Path("runs") / datetime.now().strftime("evaluate-%Y%m%d-%H%M%S")
    servers = Servers(source.config, log_dir=log_dir, say=say, beside_trainer=False)
    urls = servers.start()
    try:
        yield replace(source, urls=urls, as_served=True)
    finally:
        servers.stop()


@contextlib.asynccontextmanager
async def open_engine(source: Source, *, eos_ids: Sequence[int], say: Callable[[str], None]) -> AsyncIterator[Engine]:
    """The engine with the weights to evaluate. `eos_ids` end a completion. Raises UserError, EngineError."""
    if source.urls:
        engine = await _servers_engine(source, eos_ids=eos_ids, say=say)
    else:
        engine = _embedded_engine(source.config, eos_ids=eos_ids)
    try:
        yield engine
    finally:
        await engine.close()


async def _servers_engine(source: Source, *, eos_ids: Sequence[int], say: Callable[[str], None]) -> Engine:
    config, rollout = source.config, source.config.rollout
    engine = SGLangEngine(
        source.urls,
        num_slots=rollout.num_slots,
        request_timeout_s=rollout.request_timeout_s,
        server_timeout_s=rollout.server_timeout_s,
        outage_limit_s=rollout.outage_limit_s,
        on_new_weights=rollout.on_new_weights,
        eos_token_ids=eos_ids,
        context_tokens=_context(config),
        say=say,
    )
    try:
        if source.as_served:
            await engine.adopt(policy_version=0)
        else:
            await engine.reload(find_model(config.model.path), policy_version=0)
    except BaseException:
        await engine.close()
        raise
    return engine


def _embedded_engine(config: TrainConfig, *, eos_ids: Sequence[int]) -> Engine:
    from nouscoder_jax.model.architecture import Architecture  # these import jax, which servers do without
    from nouscoder_jax.model.weights import read_config
    from nouscoder_jax.rollout.embedded import EmbeddedEngine

    folder, model = find_model(config.model.path), config.model
    architecture = Architecture.from_hf(read_config(folder))
    return EmbeddedEngine.from_directory(
        folder,
        architecture=architecture.stretched(model.yarn_factor, original_tokens=model.yarn_original_tokens),
        eos_ids=eos_ids,
        num_slots=config.rollout.num_slots,
        decode_chunk_tokens=config.rollout.decode_chunk_tokens,
        max_cache_tokens=_context(config),
        compute_dtype=model.compute_dtype,
        policy_version=0,
        batch_invariant=config.rollout.batch_invariant,
    )


def _context(config: TrainConfig) -> int:
    """Tokens of the longest prompt and completion."""
    return config.data.max_prompt_tokens + config.evaluation.max_completion_tokens


def _served_folder(urls: Sequence[str]) -> str:
    """The model directory that the first server names, for its tokenizer."""
    workers = router_workers(urls[0]) or urls
    path = str(ask_at_start(workers[0], "/model_info").get("model_path"))
    if not Path(path).is_dir():
        raise UserError(
            f"{workers[0]} serves {path}, which is no folder on this machine; name its tokenizer with --tokenizer DIR"
        )
    return path


def _stretched(config: TrainConfig, *, say: Callable[[str], None]) -> TrainConfig:
    """The config with the YaRN that its context needs. A context whose completions alone fit, and not with the longest
    prompt, has them end where prompt and completion together do."""
    if config.model.yarn_factor != 1:
        return config
    from nouscoder_jax.model.architecture import Architecture
    from nouscoder_jax.model.weights import read_config

    architecture = Architecture.from_hf(read_config(find_model(config.model.path)))
    context, positions = _context(config), architecture.max_position_embeddings
    if yarn := architecture.rope_scaling:
        positions = max(positions, int(yarn.factor * yarn.original_max_position_embeddings))
    if context <= positions:
        return config
    longest = int(QWEN3_FACTOR * QWEN3_TOKENS)
    if positions < QWEN3_TOKENS or architecture.rope_scaling or config.evaluation.max_completion_tokens > longest:
        raise UserError(
            f"the longest prompt + completion is {context} tokens ({config.data.max_prompt_tokens} + "
            f"{config.evaluation.max_completion_tokens}), {config.model.path} knows {positions} positions; lower "
            "--max-tokens or --data.max-prompt-tokens, or stretch it: --model.yarn-factor F "
            "--model.yarn-original-tokens N"
        )
    say(f"YaRN factor {QWEN3_FACTOR} over {QWEN3_TOKENS} positions: {context} tokens are more than {positions}")
    tokens = min(config.evaluation.max_completion_tokens, longest - config.data.max_prompt_tokens)
    if context > longest:
        say(f"completions end at {tokens} tokens: with {config.data.max_prompt_tokens} of a prompt, {longest} in all")
    return replace(
        config,
        evaluation=replace(config.evaluation, max_completion_tokens=tokens),
        model=replace(config.model, yarn_factor=QWEN3_FACTOR, yarn_original_tokens=QWEN3_TOKENS),
    )


def explained(error: EngineError, source: Source, *, out: Path | None) -> EngineError:
    """The error with what to do; `out`: the folder in which samples are kept."""
    kept = f"; what was judged is in {out}: the same command goes on from there" if out else ""
    if not source.urls:
        return EngineError(f"{error}{kept}")
    servers = ", ".join(source.urls)
    return EngineError(f"{error}; look at the log of {servers} and start what ended{kept or ', then evaluate again'}")
