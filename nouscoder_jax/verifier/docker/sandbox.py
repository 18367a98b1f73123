"""A sandbox of containers: one for each rollout, on one Docker Engine or on several, made before it is needed.

In: programs and inputs. Out: Executions. A program goes to the healthy engine with the fewest programs; an engine whose
probe fails gets no more until a later probe passes. What one engine does is in nouscoder_jax/verifier/docker/host.py,
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
from nouscoder_jax.verifier.connection import Line
from nouscoder_jax.verifier.docker.container import Container
from nouscoder_jax.verifier.docker.host import DockerEngine
from nouscoder_jax.verifier.sandbox import Limits, RunnerLostError, SandboxOutError

_DEFAULT_HOST = "unix:///var/run/docker.sock"
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 15.0


class DockerSandbox:
    """Makes sessions in containers. Raises UserError where an engine does not answer or the image cannot be had."""

    def __init__(self, config: VerifierConfig) -> None:
        hosts = config.docker_hosts or (os.environ.get("DOCKER_HOST") or _DEFAULT_HOST,)
        num_spares = -(-config.num_workers // len(hosts))
        self.engines = [DockerEngine(host, config, num_spares=num_spares) for host in hosts]
        self._readmitting: asyncio.Task[None] | None = None
        _finish(self._prepare())
        versions = ", ".join(sorted({engine.version for engine in self.engines}))
        reuse = config.rollouts_per_sandbox
        each = "a container a rollout" if reuse == 1 else f"a container for {reuse} rollouts"
        self.name = (
            f"docker {versions}{f' on {len(hosts)} engines' if len(hosts) > 1 else ''}: {each}, no network, read-only "
            f"root, user id of its own, seccomp, image {config.image}"
        )

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[Line]:
        """A container with this program. Raises JudgeError; SandboxOutError where its engine is out of order."""
        engine = self._choose()
        engine.num_running += 1
        container: Container | None = None
        reusable = False
        try:
            container = await engine.take()
            await container.line.open(program, fn_name=fn_name, limits=limits)
            yield container.line
            reusable = container.line.reusable
        except RunnerLostError:
            raise
        except JudgeError as error:
            raise await self._look_into(engine, error) from error
        finally:
            engine.num_running -= 1
            if container is not None:
                await engine.give_back(container, reusable=reusable)

    async def probe(self) -> None:
        """Returns where any engine runs a program. Raises JudgeError."""
        if any(engine.healthy for engine in self.engines):
            return
        failures = await asyncio.gather(*(engine.probe() for engine in self.engines), return_exceptions=True)
        if not all(isinstance(failure, JudgeError) for failure in failures):
            return
        raise JudgeError(
            "; ".join(f"{_out([e])}: {failure}" for e, failure in zip(self.engines, failures, strict=True))
        )

    async def close(self) -> None:
        """Ends all containers of this sandbox and waits until they are gone."""
        if self._readmitting is not None:
            self._readmitting.cancel()
        await asyncio.gather(*(engine.close() for engine in self.engines))

    async def _prepare(self) -> None:
        await asyncio.gather(*(engine.prepare() for engine in self.engines))

    def _choose(self) -> DockerEngine:
        healthy = [engine for engine in self.engines if engine.healthy]
        if not healthy:
            raise SandboxOutError(_out(self.engines))
        return min(healthy, key=lambda engine: engine.num_running)

    async def _look_into(self, engine: DockerEngine, error: JudgeError) -> JudgeError:
        """What a failure was: the container's own, or a sign that the engine is, or was, out of order."""
        try:
            was_out = await engine.probe()
        except JudgeError as reason:
            if self._readmitting is None or self._readmitting.done():
                self._readmitting = asyncio.ensure_future(self._readmit())
            return SandboxOutError(f"{_out([engine])}: {reason}")
        return SandboxOutError(f"the Docker engine at {engine.host} was out of order: {error}") if was_out else error

    async def _readmit(self) -> None:
        """Probes drained engines, while others work, until each passes."""
        pause_s = _FIRST_PAUSE_S
        while drained := [engine for engine in self.engines if not engine.healthy]:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            await asyncio.gather(*(engine.probe() for engine in drained), return_exceptions=True)


def _out(engines: list[DockerEngine]) -> str:
    hosts = ", ".join(engine.host for engine in engines)
    return f"the Docker engine at {hosts} runs no program"


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, in a thread: the caller may be inside an event loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, coroutine).result()
