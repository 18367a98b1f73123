"""The processes that a run has, and what each of them takes of its machine.

In: a TrainConfig, the environment. Out: hands that train under the orders of process 0 until the run ends; a Crew and a
Trainer for process 0, the head, which alone goes on. ProcessLostError where one of them is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable

import jax

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.loop.setup import starts_servers
from nouscoder_jax.rollout.server_command import num_trainer_gpus
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.training import hands
from nouscoder_jax.training.hands import Crew, RemoteTrainer
from nouscoder_jax.training.trainer import LocalTrainer, Trainer
from nouscoder_jax.types import ProcessLostError


def share_gpus(config: TrainConfig) -> None:
    """Leaves to servers on this machine what is theirs: GPUs (split) or a share of the memory (colocated). Does nothing
    once JAX has looked at its devices."""
    fraction = config.server.trainer_memory_fraction
    if fraction > 0:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(fraction))
    if starts_servers(config) and config.server.placement == "split" and config.server.device == "cuda":
        own = ",".join(map(str, range(num_trainer_gpus(config))))
        jax.config.update("jax_cuda_visible_devices", own)


def serve_unless_head(config: TrainConfig) -> None:
    """Joins the run's processes. In all but the first this returns never: they train under its orders, for which they
    need nothing of `config` but how to find each other, and end with it. Raises UserError."""
    if start_processes(config) > 0:
        hands.leave(hands.serve())


def gather_crew(config: TrainConfig) -> contextlib.AbstractContextManager[Crew | None]:
    """The other processes, where there are any. Raises UserError."""
    return hands.gather() if config.mesh.num_processes > 1 else contextlib.nullcontext()


def make_trainer(config: TrainConfig, crew: Crew | None) -> Trainer:
    """The trainer of all processes."""
    return RemoteTrainer(config, crew, say=print) if crew else LocalTrainer(config, say=print)


def leave(crew: Crew | None) -> None:
    """Ends a head whose hands have ended; alone, does nothing."""
    if crew:
        hands.leave(0)


async def while_whole(running: Awaitable[None], crew: Crew | None, folder: RunFolder) -> None:
    """Waits for `running`, and cancels it where a process is lost first.

    Raises what it raises; ProcessLostError says how to resume.
    """
    try:
        await _unless_lost(running, crew)
    except ProcessLostError as error:
        again = f"go on from the last checkpoint, in every process: {folder.resume_command}"
        raise ProcessLostError(f"{error}; {again}") from error


async def _unless_lost(running: Awaitable[None], crew: Crew | None) -> None:
    if crew is None:
        return await running
    task, watch = asyncio.ensure_future(running), asyncio.wrap_future(crew.lost)
    await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return watch.result()
    return task.result()


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


def _instead(config: TrainConfig) -> str:
    return f"; try python scripts/train.py --config {config.fallback_config}" if config.fallback_config else ""
