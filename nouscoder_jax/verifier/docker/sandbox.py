"""A sandbox of containers: one for each rollout, on one Docker host or on several, made before it is needed.

In: programs and inputs. Out: Executions. A program goes to the healthy host with the fewest programs; a host whose
probe fails gets no more until a later probe passes. What one host does is in nouscoder_jax/verifier/docker/host.py,
what a container may do in nouscoder_jax/verifier/docker/container.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nouscoder_jax.config import VerifierConfig
from nouscoder_jax.types import JudgeError
from nouscoder_jax.verifier.connection import RunnerConnection
from nouscoder_jax.verifier.docker.container import Container
from nouscoder_jax.verifier.docker.host import DockerHost
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, SandboxOutError

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 15.0


class DockerSandbox:
    """Makes sessions in containers. Raises UserError where a Docker host does not answer or the image cannot be had."""

    def __init__(self, config: VerifierConfig) -> None:
        addresses = config.docker_hosts or (os.environ.get("DOCKER_HOST") or _DEFAULT_HOST,)
        num_spares = -(-config.num_workers // len(addresses))
        self.hosts = [DockerHost(address, config, num_spares=num_spares) for address in addresses]
        self._readmitting: asyncio.Task[None] | None = None
        _finish(self._prepare())
        versions = ", ".join(sorted({host.version for host in self.hosts}))
        reuse = config.rollouts_per_sandbox
        each = "a container a rollout" if reuse == 1 else f"a container for {reuse} rollouts"
        where = f" on {len(addresses)} hosts" if len(addresses) > 1 else ""
        self.name = (
            f"docker {versions}{where}: {each}, no network, read-only root, user id of its own, seccomp, "
            f"image {config.image}"
        )

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[RunnerConnection]:
        """A container with this program. Raises JudgeError; SandboxOutError where its Docker host is out of order."""
        host = self._choose()
        host.num_running += 1
        container: Container | None = None
        reusable = False
        try:
            container = await host.take()
            await container.connection.open(program, fn_name=fn_name, limits=limits)
            yield container.connection
            reusable = container.connection.reusable
        except RunnerLostError:
            raise
        except JudgeError as error:
            raise await self._look_into(host, error) from error
        finally:
            host.num_running -= 1
            if container is not None:
                await host.give_back(container, reusable=reusable)

    async def probe(self) -> None:
        """Returns where any host runs a program. Raises JudgeError."""
        if any(host.healthy for host in self.hosts):
            return
        failures = await asyncio.gather(*(host.probe() for host in self.hosts), return_exceptions=True)
        if not all(isinstance(failure, JudgeError) for failure in failures):
            return
        raise JudgeError(
            "; ".join(f"{_out([host])}: {failure}" for host, failure in zip(self.hosts, failures, strict=True))
        )

    async def close(self) -> None:
        """Ends all containers of this sandbox and waits until they are gone."""
        if self._readmitting is not None:
            self._readmitting.cancel()
        await asyncio.gather(*(host.close() for host in self.hosts))

    async def _prepare(self) -> None:
        await asyncio.gather(*(host.prepare() for host in self.hosts))

    def _choose(self) -> DockerHost:
        healthy = [host for host in self.hosts if host.healthy]
        if not healthy:
            raise SandboxOutError(_out(self.hosts))
        return min(healthy, key=lambda host: host.num_running)

    async def _look_into(self, host: DockerHost, error: JudgeError) -> JudgeError:
        """What a failure was: the container's own, or a sign that the host is, or was, out of order."""
        try:
            was_out = await host.probe()
        except JudgeError as reason:
            if self._readmitting is None or self._readmitting.done():
                self._readmitting = asyncio.ensure_future(self._readmit())
            return SandboxOutError(f"{_out([host])}: {reason}")
        return SandboxOutError(f"the Docker host at {host.address} was out of order: {error}") if was_out else error

    async def _readmit(self) -> None:
        """Probes drained hosts, while others work, until each passes."""
        pause_s = _FIRST_PAUSE_S
        while drained := [host for host in self.hosts if not host.healthy]:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            await asyncio.gather(*(host.probe() for host in drained), return_exceptions=True)


def _out(hosts: list[DockerHost]) -> str:
    addresses = ", ".join(host.address for host in hosts)
    return f"the Docker host at {addresses} runs no program"


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, in a thread: the caller may be inside an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, coroutine).result()
