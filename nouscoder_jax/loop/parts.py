"""The parts of a run, built from its config: problems, engine, judge, mesh, update.

In: a TrainConfig. Out: `Parts`. What can be wrong with the user's input is found here, before the first step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh

from nouscoder_jax import mesh_fit, sharding
from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.attention import check_attention
from nouscoder_jax.model.qwen3 import Qwen3
from nouscoder_jax.model.weights import abstract_model, load_model, read_config
from nouscoder_jax.rollout.embedded import EmbeddedEngine
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.server_command import num_trainer_gpus
from nouscoder_jax.rollout.servers import Servers
from nouscoder_jax.rollout.sglang import SGLangEngine
from nouscoder_jax.training.optimizer import make_optimizer
from nouscoder_jax.training.update import Update, make_token_logprobs, make_update
from nouscoder_jax.types import Problem, Prompt
from nouscoder_jax.verifier.pool import Judge, make_sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """Problems with their prompts; those whose prompt is too long are left out.

    Example:
        ProblemSet(problems=(Problem(...), ...), prompts={"tiny/train/0000": Prompt(...)}, num_left_out=0)
    """

    problems: tuple[Problem, ...]
    prompts: dict[str, Prompt]
    num_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a run is made of, apart from its state.

    Example:
        parts = build(config)
    """

    config: TrainConfig
    prompt_maker: PromptMaker
    train: ProblemSet
    held_out: ProblemSet
    architecture: Architecture
    base_model: Qwen3
    """Weights that the run starts from, NumPy."""
    mesh: Mesh
    optimizer: optax.GradientTransformation
    update: Update
    token_logprobs: Callable
    judge: Judge


def build(config: TrainConfig) -> Parts:
    """The parts. Raises UserError: hardware, files, model, sandbox."""
    share_gpus(config)
    start_processes(config)
    check_hardware(config)
    prompt_maker = PromptMaker(config.model.path, config.data)
    train = _problem_set(config.data.problems, prompt_maker)
    held_out = _problem_set(config.data.held_out, prompt_maker)
    model_folder = _local_model(config.model.path)
    architecture = Architecture.from_hf(read_config(model_folder)).stretched(
        config.model.yarn_factor, original_tokens=config.model.yarn_original_tokens
    )
    check_model(config, architecture)
    _, base_model = load_model(model_folder, architecture=architecture)
    mesh = sharding.make_mesh(config.mesh, devices=jax.devices())
    return Parts(
        config=config,
        prompt_maker=prompt_maker,
        train=train,
        held_out=held_out,
        architecture=architecture,
        base_model=base_model,
        mesh=mesh,
        optimizer=make_optimizer(config.optimizer),
        update=make_update(config, architecture, mesh, loss_name=config.loss.name),
        token_logprobs=make_token_logprobs(config, mesh),
        judge=Judge(make_sandbox(config.verifier), config.verifier, stop_at_first_failure=True, say=print),
    )


def share_gpus(config: TrainConfig) -> None:
    """Leaves to servers on this machine what is theirs: GPUs (split) or a share of the memory (colocated). Does nothing
    once JAX has looked at its devices."""
    fraction = config.server.trainer_memory_fraction
    if fraction > 0:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(fraction))
    if starts_servers(config) and config.server.placement == "split" and config.server.device == "cuda":
        own = ",".join(map(str, range(num_trainer_gpus(config))))
        jax.config.update("jax_cuda_visible_devices", own)


def start_processes(config: TrainConfig) -> None:
    """Joins jax.distributed where the config asks for several processes. Raises UserError without a process number."""
    if config.mesh.num_processes == 1:
        return
    number = os.environ.get("NOUSCODER_PROCESS_ID", "")
    if not number.isdigit() or int(number) >= config.mesh.num_processes:
        raise UserError(
            f"{_needs(config)} in {config.mesh.num_processes} processes, each started with NOUSCODER_PROCESS_ID=0 to "
            f"{config.mesh.num_processes - 1}; found {_found()} and NOUSCODER_PROCESS_ID={number!r}{_instead(config)}"
        )
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away from the loop
    jax.distributed.initialize(
        coordinator_address=config.mesh.coordinator_address,
        num_processes=config.mesh.num_processes,
        process_id=int(number),
    )


def check_hardware(config: TrainConfig) -> None:
    """Raises UserError where the config needs GPUs that are not here."""
    if sum(device.platform == "gpu" for device in jax.devices()) < config.min_gpus:
        raise UserError(f"{_needs(config)}; found {_found()}{_instead(config)}")


def check_model(config: TrainConfig, architecture: Architecture) -> None:
    """Raises UserError where model and mesh do not fit, the context not the model, or the attention not the model, its
    rows or the device."""
    if config.context_tokens > architecture.max_position_embeddings:
        raise UserError(
            f"the longest prompt + completion is {config.context_tokens} tokens (data.max_prompt_tokens + "
            f"max_completion_tokens of rollout or evaluation), the model knows {architecture.max_position_embeddings} "
            "positions; shorten them, or stretch the model: --model.yarn-factor 2.5"
        )
    mesh_fit.check_mesh(config.mesh, mesh_fit.shapes_of(abstract_model(architecture)))
    check_attention(
        config.model.attention,
        platform=jax.devices()[0].platform,
        compute_dtype=config.model.compute_dtype,
        head_dim=architecture.head_dim,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        packed=config.experience.packed_rows,
    )


def _needs(config: TrainConfig) -> str:
    mesh = config.mesh
    return (
        f"config {config.name} needs {config.min_gpus or mesh.num_devices} {'GPUs' if config.min_gpus else 'devices'} "
        f"(mesh data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor})"
    )


def _found() -> str:
    gpus = sum(device.platform == "gpu" for device in jax.devices())
    return f"{gpus} GPUs" if gpus else "no GPU"


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


def make_engine(parts: Parts, urls: Sequence[str], *, say: Callable[[str], None]) -> Engine:
    """The engine that the config names; `urls`: its servers, where it has any. `say` takes lines for people.

    The embedded engine begins with the weights that the run starts from. Raises UserError.
    """
    return ENGINES[parts.config.rollout.engine](parts, urls, say)


def _embedded(parts: Parts, urls: Sequence[str], say: Callable[[str], None]) -> Engine:
    config = parts.config
    return EmbeddedEngine(
        parts.base_model,
        parts.architecture,
        eos_ids=parts.prompt_maker.eos_token_ids,
        num_slots=config.rollout.num_slots,
        decode_chunk_tokens=config.rollout.decode_chunk_tokens,
        max_cache_tokens=config.context_tokens,
        compute_dtype=config.model.compute_dtype,
        policy_version=0,
        batch_invariant=config.rollout.batch_invariant,
    )


def _sglang(parts: Parts, urls: Sequence[str], say: Callable[[str], None]) -> Engine:
    config, rollout = parts.config, parts.config.rollout
    return SGLangEngine(
        urls,
        num_slots=rollout.num_slots,
        request_timeout_s=rollout.request_timeout_s,
        server_timeout_s=rollout.server_timeout_s,
        outage_limit_s=rollout.outage_limit_s,
        on_new_weights=rollout.on_new_weights,
        eos_token_ids=parts.prompt_maker.eos_token_ids,
        context_tokens=config.context_tokens,
        say=say,
    )


ENGINES: dict[str, Callable[[Parts, Sequence[str], Callable[[str], None]], Engine]] = {
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


def _local_model(path: str) -> Path:
    """The folder of a model: itself, or the local copy of a hub id."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model.path {path!r} is neither a folder nor a hub id that can be fetched; check it"
        ) from error


def _instead(config: TrainConfig) -> str:
    return f"; try python scripts/train.py --config {config.fallback_config}" if config.fallback_config else ""
