"""One Docker host: containers made ahead of need, a probe of its health, an end that leaves nothing behind.

In: an address, a verifier config. Out: `Container`s with a runner that waits for a program. The runner's source goes in
over stdin, so that any image with a python3 will do. A container ends when its connection closes, so a judge that dies
leaves none running; what then stays as a dead entry is removed at the next start, by its label.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import docker.errors

from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import ExecutionStatus, JudgeError
from nouscoder_jax.verifier import bundle, interpreter
from nouscoder_jax.verifier.docker import image
from nouscoder_jax.verifier.docker.client import CALL_S, DockerClient, attach, remove
from nouscoder_jax.verifier.docker.container import (
    OWNER_LABEL,
    UID,
    Container,
    FramedConnection,
    cause_of_end,
    creation,
)
from nouscoder_jax.verifier.sandbox import Limits

_PING_S, _IMAGE_S, _LEAVE_S, _CLOSE_S, _DYING_S = 10.0, 300.0, 3.0, 20.0, 3.0
_POLL_S = 0.05
_OPEN: set[str] = set()
"""Owners of containers in this process that are not closed."""
_PROBE_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_mib=64, output_mib=1, max_processes=4)


class DockerHost:
    """Makes containers on one Docker host. `prepare` comes first."""

    def __init__(self, address: str, config: VerifierConfig, *, num_spares: int) -> None:
        """`num_spares`: containers that wait ready. Raises UserError where `address` is none."""
        self.address = address
        self.healthy = True
        """What the last probe, or the start, found."""
        self.num_running = 0
        """Programs on it now."""
        self.version = ""
        self._config = config
        self._num_spares = num_spares
        self._client = DockerClient(address, num_threads=2 * num_spares + 2)
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{start_time(os.getpid())}/{os.urandom(4).hex()}"
        _OPEN.add(self._owner)
        self._spare: deque[asyncio.Task[Container]] = deque()
        self._live: dict[str, Container] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[bool] | None = None
        self._closed = False
        self._ours = False

    async def prepare(self) -> None:
        """Reaches the host, removes what dead processes of this machine left there, makes the image where it lacks.

        Raises UserError.
        """
        try:
            self.version = await self._client.agree(timeout_s=_PING_S)
        except JudgeError as error:
            raise UserError(
                f"no Docker host answers at {self.address} ({error}); start one, set DOCKER_HOST or "
                "verifier.docker_hosts, or use the local backend"
            ) from error
        try:
            await self._remove_all(is_orphan)
            labels = await self._client.call(self._find_image, timeout_s=CALL_S)
            if labels is None or image.is_outdated(labels, interpreter.choose()):
                await self._make_image()
                labels = await self._client.call(self._find_image, timeout_s=CALL_S) or {}
            self._ours = image.BYTECODE_LABEL in labels
            self._bundle = bundle.bundle(compiled=labels.get(image.BYTECODE_LABEL) == image.BYTECODE)
            command = bundle.command("python3", len(self._bundle))
            self._creation = await self._client.call(
                lambda api: creation(api, self._config, command=command, owner=self._owner), timeout_s=CALL_S
            )
        except JudgeError as error:
            name = self._config.image
            raise UserError(f"the Docker image {name!r} cannot be made at {self.address}: {error}") from error

    # -- containers ----------------------------------------------------------------------------------------------

    async def take(self) -> Container:
        """A container that is ready; once there is one, others are begun so that the next caller need not wait.

        Raises JudgeError.
        """
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
                continue  # begun when the host was away: what counts is whether it answers now
            if container.connection.has_ended:
                self._leave(container)
                continue
            while not self._closed and len(self._spare) < self._num_spares:
                self._spare.append(self._begin())
            return container

    async def give_back(self, container: Container, *, reusable: bool) -> None:
        """Keeps a reusable container for the next program where it may judge more, ends it otherwise."""
        container.rollouts += 1
        if reusable and not self._closed and container.rollouts < self._config.rollouts_per_sandbox:
            self._spare.appendleft(_done(container))
            return
        self._leave(container)
        if len(self._leaving) > self._config.num_workers:
            await asyncio.wait(self._leaving, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Ends all containers of this sandbox and waits until they are gone."""
        self._closed = True
        for task in (*self._spare, *([self._probing] if self._probing else [])):
            task.cancel()
        await asyncio.gather(*self._spare, return_exceptions=True)
        self._spare.clear()
        for container in list(self._live.values()):
            self._leave(container)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_CLOSE_S)
        with contextlib.suppress(JudgeError):
            await self._remove_all(lambda owner: owner == self._owner)
        self._client.close()
        _OPEN.discard(self._owner)

    def _begin(self) -> asyncio.Task[Container]:
        task = asyncio.ensure_future(self._create())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at by `take`
        return task

    async def _create(self) -> Container:
        container = Container(f"nouscoder-{os.getpid()}-{os.urandom(6).hex()}")
        name = container.name
        future = self._client.begin(lambda api: self._create_blocking(api, name))
        try:
            raw = await self._client.result(future, timeout_s=3 * CALL_S)
        except BaseException:
            self._later(self._discard(future, name))  # the thread may be about to make it
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=raw)
            container.connection = FramedConnection(
                reader, writer, why_lost=lambda what: self._why_lost(container, what)
            )
            self._live[name] = container
            writer.write(self._bundle)
            await container.connection.setup(enter="container", uid=UID, folder="/tmp")
        except BaseException:
            self._leave(container)
            raise
        return container

    def _create_blocking(self, api: Any, name: str) -> socket.socket:
        api.create_container_from_config(self._creation, name)
        raw = attach(api, name)
        try:
            api.start(name)
        except BaseException:
            raw.close()
            raise
        raw.setblocking(False)
        return raw

    async def _discard(self, future: Future[socket.socket], name: str) -> None:
        """Removes what a call that was given up, or failed half-way, made."""
        with contextlib.suppress(JudgeError):
            (await self._client.result(future, timeout_s=3 * CALL_S)).close()
        await self._remove(name)

    def _leave(self, container: Container) -> None:
        """Ends a container in the background."""
        if self._live.pop(container.name, None) is not None:
            self._later(self._end(container))

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _end(self, container: Container) -> None:
        """Hangs up, at which the runner exits; removes the container, by force where it does not."""
        connection = container.connection
        with contextlib.suppress(OSError, TimeoutError):
            connection.hang_up()
            await asyncio.wait_for(connection.until_end(), _LEAVE_S)
        connection.close()
        await self._remove(container.name)

    async def _remove(self, name: str) -> None:
        with contextlib.suppress(JudgeError):  # the host is gone: removed when it is back
            await self._client.call(lambda api: remove(api, name), timeout_s=CALL_S)

    async def _remove_all(self, chosen: Callable[[str], bool]) -> None:
        """Removes the containers whose owner is chosen, but for those in use. Raises JudgeError."""

        def work(api: Any) -> None:
            for found in api.containers(all=True, filters={"label": OWNER_LABEL}):
                if chosen(found["Labels"][OWNER_LABEL]) and found["Names"][0].lstrip("/") not in self._live:
                    remove(api, found["Id"])

        await self._client.call(work, timeout_s=CALL_S)

    async def _why_lost(self, container: Container, what: str) -> JudgeError:
        """Asks the host what became of a container whose connection broke."""
        deadline = asyncio.get_running_loop().time() + _DYING_S
        while True:
            try:
                found = await self._client.call(lambda api: api.inspect_container(container.name), timeout_s=_PING_S)
            except JudgeError as error:
                return JudgeError(f"{what}; the Docker host at {self.address} does not say why: {error}")
            if not found["State"]["Running"]:
                return cause_of_end(found["State"], what)
            if asyncio.get_running_loop().time() > deadline:
                return JudgeError(f"the connection to a container that still runs was lost ({what})")
            await asyncio.sleep(_POLL_S)

    # -- health --------------------------------------------------------------------------------------------------

    async def probe(self) -> bool:
        """Runs a program in a container of its own; sets `healthy`. Returns whether anything was out of order before:
        the host, or an image of ours that somebody removed. Callers at the same time share one probe.

        Raises JudgeError where no program runs.
        """
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
            self._probing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> bool:
        was_healthy, self.healthy = self.healthy, False
        await self._client.call(lambda api: api.ping(), timeout_s=_PING_S)
        mended = await self._mend_image()
        if not was_healthy:
            await self._remove_all(lambda owner: owner == self._owner)
        container = await self._create()
        try:
            await container.connection.open("print(6 * 7)", fn_name=None, limits=_PROBE_LIMITS)
            execution = await container.connection.run("")
        finally:
            self._leave(container)
        if execution.status is not ExecutionStatus.EXITED or execution.stdout != b"42\n":
            raise JudgeError(f"a program of one line ended with {execution.status.value} ({execution.detail})")
        self.healthy = True
        return mended or not was_healthy

    async def _mend_image(self) -> bool:
        """Makes an image of ours again that somebody removed. Returns whether it had to."""
        if await self._client.call(self._find_image, timeout_s=CALL_S) is not None:
            return False
        if not self._ours:
            raise JudgeError(f"the image {self._config.image!r} is gone; pull or make it again")
        await self._make_image()
        return True

    def _find_image(self, api: Any) -> dict[str, str] | None:
        """The image's labels; None where there is no image."""
        try:
            return (api.inspect_image(self._config.image).get("Config") or {}).get("Labels") or {}
        except docker.errors.ImageNotFound:
            return None

    async def _make_image(self) -> None:
        python = interpreter.choose()
        repository, _, tag = self._config.image.partition(":")
        root = await asyncio.to_thread(image.root_tar, python)
        await self._client.call(
            lambda api: api.import_image_from_data(
                root, repository=repository, tag=tag or "latest", changes=image.labels(python)
            ),
            timeout_s=_IMAGE_S,
        )


def _done(container: Container) -> asyncio.Task[Container]:
    async def give() -> Container:
        return container

    return asyncio.ensure_future(give())


def is_orphan(owner: str) -> bool:
    """Whether a container was made by this machine and whoever did is gone: the process, or what it was closed."""
    host, pid, start, *_ = owner.split("/")
    if host != socket.gethostname():
        return False
    return start_time(int(pid)) != start or (int(pid) == os.getpid() and owner not in _OPEN)


def start_time(pid: int) -> str:
    """When a process began, in ticks since boot; empty where there is none. A pid comes back, this does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""
