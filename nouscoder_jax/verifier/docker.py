"""A sandbox of containers: one for each rollout, on a real Docker Engine, made before it is needed.

In: programs and inputs. Out: Executions. Each container has no network, a read-only root, two small tmpfs, limits on
memory and processes, and only the capabilities that the runner (pid 1) needs to become somebody else. The runner's
source goes in over stdin, so that any image with a python3 will do.

The engine is the one of DOCKER_HOST. Calls to it block and run in threads; the line to a runner is an asyncio stream.
A container ends when its line closes, so a dead host leaves none running; what an engine failure left is removed at the
next start by its label.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker
import docker.errors
import docker.types
import requests.exceptions

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import JudgeError
from nouscoder_jax.verifier import bundle, image, interpreter
from nouscoder_jax.verifier.line import Line
from nouscoder_jax.verifier.sandbox import Limits

ENGINE_ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)
"""What a failing engine raises through the SDK."""
_OWNER_LABEL = "nouscoder.judge"
_UID = 10001
_CAPABILITIES = ["SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER"]
_TMPFS = "rw,nosuid,nodev,noexec,size=64m,nr_inodes=4096,mode=1777"
_RUNNER_MIB = 192
"""Memory of a container beyond the program's: the runner, two tmpfs, input and output files."""
_RUNNER_PROCESSES = 8
_PING_S, _CALL_S, _LEAVE_S, _CLOSE_S = 10, 120, 3.0, 20.0
_Result = TypeVar("_Result")


class DockerSandbox:
    """Makes sessions in containers. Raises UserError where no engine answers or the image cannot be had."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(max_workers=2 * config.num_workers + 2, thread_name_prefix="docker")
        self._clients = threading.local()
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{_start_time(os.getpid())}"
        self._spare: deque[asyncio.Task[_Container]] = deque()
        self._live: set[_Container] = set()
        self._closed = False
        try:
            version = self._reach_engine()
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        self._bundle = bundle.bundle(compiled=self._compiled)
        self._command = bundle.command("python3", len(self._bundle))
        reuse = config.rollouts_per_sandbox
        each = "a container a rollout" if reuse == 1 else f"a container for {reuse} rollouts"
        self.name = (
            f"docker {version}: {each}, no network, read-only root, user id of its own, seccomp, image {config.image}"
        )

    @contextlib.asynccontextmanager
    async def session(self, program: str, *, fn_name: str | None, limits: Limits) -> AsyncIterator[Line]:
        """A container with this program. Raises JudgeError."""
        container = await self._take()
        reusable = False
        try:
            await container.line.open(program, fn_name=fn_name, limits=limits)
            yield container.line
            container.rollouts += 1
            reusable = container.line.clean and container.rollouts < self._config.rollouts_per_sandbox
        finally:
            if reusable and not self._closed:
                self._spare.appendleft(_done(container))
            else:
                await asyncio.shield(self._destroy(container))

    async def close(self) -> None:
        """Ends all containers of this sandbox and waits until they are gone."""
        self._closed = True
        if self._spare:  # not cancelled at once: a call that is under way in a thread would make one more container
            await asyncio.wait(self._spare, timeout=_CLOSE_S)
        for task in self._spare:
            task.cancel()
        self._spare.clear()
        await asyncio.gather(*(self._destroy(container) for container in list(self._live)))
        with contextlib.suppress(JudgeError):
            await self._call(lambda api: _remove_all(api, lambda owner: owner == self._owner))
        self._threads.shutdown(wait=False)

    # -- the engine ----------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        """This thread's client: the SDK does not promise that one may be shared."""
        if not hasattr(self._clients, "api"):
            self._clients.api = docker.from_env(timeout=_CALL_S).api
        return self._clients.api

    async def _call(self, function: Callable[[Any], _Result]) -> _Result:
        """The function with a client, in a thread. Raises JudgeError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(self._client()))
        except ENGINE_ERRORS as error:
            raise JudgeError(f"the Docker engine failed: {_short(error)}") from error

    def _reach_engine(self) -> str:
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        try:
            version = docker.from_env(timeout=_PING_S).api.version()["Version"]
        except ENGINE_ERRORS as error:
            raise UserError(
                f"no Docker engine answers at {host} ({_short(error)}); start one, set DOCKER_HOST, "
                "or use the local backend"
            ) from error
        name, api = self._config.image, self._client()
        try:
            _remove_all(api, _is_orphan)
            try:
                found = api.inspect_image(name)
            except docker.errors.ImageNotFound:
                image.make(api, name, interpreter.choose())
                found = api.inspect_image(name)
            labels = (found.get("Config") or {}).get("Labels") or {}
            self._compiled = labels.get(image.BYTECODE_LABEL) == image.BYTECODE
        except ENGINE_ERRORS as error:
            raise UserError(f"the Docker image {name!r} cannot be made at {host}: {_short(error)}") from error
        return version

    # -- containers ----------------------------------------------------------------------------------------------

    async def _take(self) -> _Container:
        """A container that is ready; once there is one, others are begun so that the next caller need not wait."""
        while True:
            waited_for = bool(self._spare)
            task = self._spare.popleft() if waited_for else self._begin()
            try:
                container = await asyncio.shield(task)
            except asyncio.CancelledError:
                self._spare.append(task)  # whoever comes next takes it, or `close` ends it
                raise
            except JudgeError:
                if not waited_for:
                    raise
                continue  # begun when the engine was away: what counts is whether it answers now
            if container.line.ended.is_set():
                await self._destroy(container)
                continue
            self._refill()
            return container

    def _begin(self) -> asyncio.Task[_Container]:
        task = asyncio.ensure_future(self._create())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at by `_take`
        return task

    def _refill(self) -> None:
        while not self._closed and len(self._spare) < self._config.num_workers:
            self._spare.append(self._begin())

    async def _create(self) -> _Container:
        identity = await self._call(self._create_blocking)
        try:
            raw = await self._call(lambda api: _attach(api, identity))
            container = _Container(identity, await _line(raw))
        except BaseException:
            await asyncio.shield(self._remove(identity))
            raise
        self._live.add(container)
        try:
            await self._call(lambda api: api.start(identity))
            container.line.writer.write(self._bundle)
            await container.line.setup(enter="container", uid=_UID, folder="/tmp")
        except BaseException:
            await asyncio.shield(self._destroy(container, kill=True))
            raise
        return container

    def _create_blocking(self, api: Any) -> str:
        config = self._config
        unlimited = docker.types.Ulimit(name="stack", soft=-1, hard=-1)
        memory = f"{config.memory_limit_mib + _RUNNER_MIB}m"
        host_config = api.create_host_config(
            auto_remove=True, read_only=True, cap_drop=["ALL"], cap_add=_CAPABILITIES,
            security_opt=["no-new-privileges"], mem_limit=memory, memswap_limit=memory,
            pids_limit=config.max_processes + _RUNNER_PROCESSES, ipc_mode="none", runtime=config.runtime or None,
            tmpfs={"/tmp": _TMPFS, "/dev/shm": _TMPFS}, log_config=docker.types.LogConfig(type="none"),
            ulimits=[unlimited, docker.types.Ulimit(name="core", soft=0, hard=0)],
        )  # fmt: skip
        made = api.create_container(
            config.image, command=self._command, entrypoint=[], environment=bundle.ENVIRONMENT, stdin_open=True,
            network_disabled=True, stop_signal="SIGKILL", user="0:0", working_dir="/",
            labels={_OWNER_LABEL: self._owner}, host_config=host_config,
        )  # fmt: skip
        return made["Id"]

    async def _destroy(self, container: _Container, *, kill: bool = False) -> None:
        """Closes the line, at which the runner exits and the engine removes the container; removes it where not."""
        if container not in self._live:
            return
        self._live.discard(container)
        container.line.writer.close()
        try:
            if kill:
                raise TimeoutError
            await asyncio.wait_for(container.line.ended.wait(), _LEAVE_S)
        except TimeoutError:
            await self._remove(container.identity)

    async def _remove(self, identity: str) -> None:
        with contextlib.suppress(JudgeError):  # gone already, or the engine is: the label finds it later
            await self._call(lambda api: api.remove_container(identity, force=True))


class _DemuxedLine(Line):
    """A line whose stdout comes in the engine's frames: stream (1 byte), 3 zeros, length (4 bytes), data."""

    def __init__(self, framed: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(asyncio.StreamReader(), writer)
        self.ended = asyncio.Event()
        self._pump = asyncio.ensure_future(self._demux(framed))

    async def _demux(self, framed: asyncio.StreamReader) -> None:
        try:
            while True:
                head = await framed.readexactly(8)
                data = await framed.readexactly(int.from_bytes(head[4:], "big"))
                if head[0] == 1:
                    self.reader.feed_data(data)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.reader.feed_eof()
            self.ended.set()
            self.writer.close()


class _Container:
    """One running container and its line."""

    def __init__(self, identity: str, line: _DemuxedLine) -> None:
        self.identity = identity
        self.line = line
        self.rollouts = 0


def _attach(api: Any, identity: str) -> socket.socket:
    """The raw two-way socket to a container's stdin and stdout, kept apart from the client's pool of connections."""
    wrapped = api.attach_socket(identity, params={"stdin": 1, "stdout": 1, "stream": 1})
    raw = getattr(wrapped, "_sock", wrapped)
    if type(raw) is not socket.socket:
        raise docker.errors.DockerException(
            "lines to an engine over TLS or ssh are not supported; use unix:// or tcp://"
        )
    copy = socket.socket(fileno=os.dup(raw.fileno()))
    wrapped.close()
    return copy


async def _line(raw: socket.socket) -> _DemuxedLine:
    raw.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=raw)
    return _DemuxedLine(reader, writer)


def _done(container: _Container) -> asyncio.Task[_Container]:
    async def give() -> _Container:
        return container

    return asyncio.ensure_future(give())


def _remove_all(api: Any, chosen: Callable[[str], bool]) -> None:
    for found in api.containers(all=True, filters={"label": _OWNER_LABEL}):
        if chosen(found["Labels"][_OWNER_LABEL]):
            with contextlib.suppress(docker.errors.APIError):  # on its way out already
                api.remove_container(found["Id"], force=True)


def _is_orphan(owner: str) -> bool:
    """Whether the process that made a container was on this host and is gone."""
    host, _, rest = owner.partition("/")
    pid, _, start = rest.partition("/")
    return host == socket.gethostname() and _start_time(int(pid)) != start


def _start_time(pid: int) -> str:
    """When a process began, in ticks since boot; empty where there is none. A pid comes back, this does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def _short(error: BaseException) -> str:
    text = str(getattr(error, "explanation", None) or error).replace("\n", " ")
    return text if len(text) <= 200 else text[:200] + "..."
