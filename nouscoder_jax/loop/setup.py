"""The parts of a run on the host's side, built from its config: problems, engine, judge; and the processes it has.

In: a TrainConfig. Out: `Components`. What can be wrong with the user's input is found here, before the first step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.data.problems import read_problems
from nouscoder_jax.data.prompts import PromptMaker
from nouscoder_jax.hub import find_model
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.weights import load_model
from nouscoder_jax.rollout.embedded import EmbeddedEngine
from nouscoder_jax.rollout.engine import Engine
from nouscoder_jax.rollout.server_command import num_trainer_gpus
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
    prompts: dict[str, Prompt]
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


PROCESS_ID = "NOUSCODER_PROCESS_ID"


def start_processes(config: TrainConfig) -> int:
    """Joins jax.distributed where the config asks for several processes, and returns this one's number; 0 is the head.

    Slurm, OpenMPI and Kubernetes say who is who. Elsewhere mesh.coordinator_address or JAX_COORDINATOR_ADDRESS is where
    process 0 listens, and NOUSCODER_PROCESS_ID the number. Raises UserError.
    """
    mesh = config.mesh
    if mesh.num_processes == 1:
        return 0
    address = mesh.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    number = os.environ.get(PROCESS_ID, "")
    if address and (not number.isdigit() or int(number) >= mesh.num_processes):
        raise UserError(
            f"{_needs(config)} in {mesh.num_processes} processes, each started with {PROCESS_ID}=0 to "
            f"{mesh.num_processes - 1}; found {_found()} and {PROCESS_ID}={number!r}{_instead(config)}"
        )
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away from the loop
    jax.config.update("jax_enable_recoverability", True)  # else jax aborts when another process dies, before we say so
    known = (
        {"coordinator_address": address, "num_processes": mesh.num_processes, "process_id": int(number)}
        if address
        else {}
    )
    try:
        jax.distributed.initialize(**known, local_device_ids=_own_gpus(config), shutdown_timeout_seconds=60)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{_needs(config)} in {mesh.num_processes} processes, which have not found each other "
            f"({str(error).splitlines()[0]}); start it under Slurm, OpenMPI or Kubernetes, or give "
            f"--mesh.coordinator-address HOST:PORT of process 0 and {PROCESS_ID}{_instead(config)}"
        ) from error
    if jax.process_count() != mesh.num_processes:
        raise UserError(
            f"mesh.num_processes is {mesh.num_processes}, and {jax.process_count()} processes were started; make them "
            "equal"
        )
    return jax.process_index()


def _own_gpus(config: TrainConfig) -> list[int]:
    """Which GPUs of its machine a process takes. Left alone, jax takes one for each task of Slurm."""
    local = next((os.environ[name] for name in _LOCAL_NUMBERS if os.environ.get(name, "").isdigit()), "0")
    number = num_trainer_gpus(config)
    return [int(local) * number + gpu for gpu in range(number)]


_LOCAL_NUMBERS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Variables that count the processes of one machine."""


def check_hardware(config: TrainConfig) -> None:
    """Raises UserError where the config needs GPUs that are not here."""
    if sum(device.platform == "gpu" for device in jax.devices()) < config.min_gpus:
        raise UserError(f"{_needs(config)}; found {_found()}{_instead(config)}")


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


def _instead(config: TrainConfig) -> str:
    return f"; try python scripts/train.py --config {config.fallback_config}" if config.fallback_config else ""
