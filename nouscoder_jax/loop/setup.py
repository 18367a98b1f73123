"""The parts of a run on the host's side, built from its config: problems, judge, engine and its servers.

In: a TrainConfig. Out: `Components`, an Engine. What can be wrong with the user's input is found here, before
the first step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.hub import find_model
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.rollout.embedded import EmbeddedEngine
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.extract import Extract, make_extract
from nouscoder_jax.rollout.servers import Servers
from nouscoder_jax.rollout.sglang import SGLangEngine
from nouscoder_jax.types import Problem, Prompt
from nouscoder_jax.verifier.judge import SandboxJudge, make_sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """Problems with their prompts; those whose prompt is too long are left out.

    Example:
        ProblemSet(problems=(Problem(...), ...), prompts={"tiny/train/0000": Prompt(...)}, num_left_out=0)
    """

    problems: tuple[Problem, ...]
    prompts: Mapping[str, Prompt]
    num_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """What the host's side of a run is made of, apart from engine and state.

    Example:
        components = build(config)
    """

    config: TrainConfig
    prompt_maker: PromptMaker
    train: ProblemSet
    held_out: ProblemSet
    judge: SandboxJudge
    extract: Extract
    """data.extract_rule."""


def build(config: TrainConfig) -> Components:
    """The components. Raises UserError: files, tokenizer, sandbox."""
    prompt_maker = PromptMaker(config.model.path, config.data)
    train = _problem_set(config.data.problems, prompt_maker)
    held_out = _problem_set(config.data.held_out, prompt_maker)
    return Components(
        config=config,
        prompt_maker=prompt_maker,
        train=train,
        held_out=held_out,
        judge=SandboxJudge(make_sandbox(config.verifier), config.verifier, stop_at_first_failure=True, say=print),
        extract=make_extract(
            config.data.extract_rule, decode=prompt_maker.decode, think_token_ids=prompt_maker.think_token_ids
        ),
    )


@contextlib.contextmanager
def serving(config: TrainConfig, log_dir: Path, *, say: Callable[[str], None]) -> Iterator[tuple[str, ...]]:
    """The addresses of the servers that generate, while the block runs: those that the config names, or its own ones,
    which are started here and stopped at its end. Empty for the embedded engine. Raises UserError."""
    if not starts_servers(config):
        yield config.rollout.urls
        return
    servers = Servers(config, log_dir=log_dir, say=say, beside_trainer=True)
    urls = servers.start()
    try:
        yield urls
    finally:
        servers.stop()


def starts_servers(config: TrainConfig) -> bool:
    """Whether the run starts the SGLang servers that it generates with."""
    return config.rollout.engine == "sglang" and not config.rollout.urls


def make_engine(
    components: Components, architecture: Architecture, urls: Sequence[str], *, say: Callable[[str], None]
) -> Engine:
    """The engine that the config names; `urls`: its servers, where it has any. `say` takes lines for people.

    The embedded engine begins with the weights that the config names. Raises UserError.
    """
    return ENGINES[components.config.rollout.engine](components, architecture, urls, say)


def _embedded(
    components: Components, architecture: Architecture, urls: Sequence[str], say: Callable[[str], None]
) -> Engine:
    config = components.config
    _, model = load_model(find_model(config.model.path), architecture=architecture)
    return EmbeddedEngine(
        model,
        architecture,
        eos_ids=components.prompt_maker.eos_token_ids,
        num_slots=config.rollout.num_slots,
        decode_chunk_tokens=config.rollout.decode_chunk_tokens,
        max_cache_tokens=config.context_tokens,
        compute_dtype=config.model.compute_dtype,
        policy_version=0,
        batch_invariant=config.rollout.batch_invariant,
    )


def _sglang(
    components: Components, architecture: Architecture, urls: Sequence[str], say: Callable[[str], None]
) -> Engine:
    config, rollout = components.config, components.config.rollout
    return SGLangEngine(
        urls,
        num_slots=rollout.num_slots,
        request_timeout_s=rollout.request_timeout_s,
        server_timeout_s=rollout.server_timeout_s,
        outage_limit_s=rollout.outage_limit_s,
        on_new_weights=rollout.on_new_weights,
        eos_token_ids=components.prompt_maker.eos_token_ids,
        context_tokens=config.context_tokens,
        say=say,
    )


ENGINES: dict[str, Callable[[Components, Architecture, Sequence[str], Callable[[str], None]], Engine]] = {
    "embedded": _embedded,
    "sglang": _sglang,
}


def _problem_set(path: str, prompt_maker: PromptMaker) -> ProblemSet:
    problems = read_problems(Path(path))
    prompts, left_out = prompt_maker.make_all(problems)
    return ProblemSet(
        problems=tuple(problem for problem in problems if problem.problem_id in prompts),
        prompts=prompts,
        num_left_out=len(left_out),
    )
