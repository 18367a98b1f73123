"""Calls of the Docker SDK from asyncio, and connections to containers as sockets, however the Docker host is reached.

In: an address as DOCKER_HOST takes it; functions of an SDK client. Out: their results, or JudgeErrors. The SDK blocks,
so it runs in threads, a client each. They are daemons and every request has a time limit: a Docker host that is stopped
delays nobody's exit. TLS is set up as Docker's own tools do (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH); ssh:// takes the
`ssh` on PATH and needs the package paramiko.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import docker
import docker.constants
import docker.errors
import docker.utils
import requests.exceptions

from nouscoder_jax.config import UserError
from nouscoder_jax.types import JudgeError

CALL_S = 60.0
"""Seconds a Docker host may take to answer, or to send more of an answer."""
_HOST_ERRORS = (docker.errors.DockerException, requests.exceptions.RequestException, OSError)
_SHOWN_CHARS = 200
_CHUNK = 1 << 16
_Result = TypeVar("_Result")


class DockerClient:
    """One Docker host.

    Example:
        client = DockerClient("unix:///var/run/docker.sock", num_threads=4)
        version = await client.agree(timeout_s=10.0)
        containers = await client.call(lambda api: api.containers(), timeout_s=60.0)
    """

    def __init__(self, address: str, *, num_threads: int) -> None:
        """Raises UserError where `address` is none or its certificates cannot be read."""
        environment = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        try:
            self._arguments: dict[str, Any] = {**docker.utils.kwargs_from_env(environment | {"DOCKER_HOST": address})}
            docker.utils.parse_host(address, tls="tls" in self._arguments)
        except (docker.errors.DockerException, ValueError) as error:
            raise UserError(
                f"got {address!r} as the address of a Docker host ({short(error)}); use unix:///path, tcp://host:port "
                "(for TLS with DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH) or ssh://user@host"
            ) from error
        self._api_version = docker.constants.MINIMUM_DOCKER_API_VERSION
        self._clients = threading.local()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[Any], Any]] | None] = queue.SimpleQueue()
        self._num_threads = num_threads
        self._threads: list[threading.Thread] = []

    async def agree(self, *, timeout_s: float) -> str:
        """Settles on the version of the API that the host speaks. Returns the host's own. Raises JudgeError."""
        told = await self.call(lambda api: api.version(api_version=False), timeout_s=timeout_s)
        self._api_version = told["ApiVersion"]
        return told["Version"]

    async def call(self, function: Callable[[Any], _Result], *, timeout_s: float) -> _Result:
        """The function with a client, in a thread. A call that is given up goes on there. Raises JudgeError."""
        return await self.result(self.begin(function), timeout_s=timeout_s)

    async def result(self, future: Future[_Result], *, timeout_s: float) -> _Result:
        """What the thread gives; the call goes on where this is given up. Raises JudgeError."""
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), timeout_s)
        except TimeoutError as error:
            raise JudgeError(f"no answer within {timeout_s:g} s") from error
        except _HOST_ERRORS as error:
            raise JudgeError(short(error)) from error

    def begin(self, function: Callable[[Any], _Result]) -> Future[_Result]:
        """The same without waiting; its errors are the SDK's."""
        if len(self._threads) < self._num_threads:
            self._threads.append(threading.Thread(target=self._work, name="docker", daemon=True))
            self._threads[-1].start()
        future: Future[_Result] = Future()
        self._jobs.put((future, function))
        return future

    def close(self) -> None:
        """Lets the threads end when they are idle."""
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(self._client()))
            except BaseException as error:  # whoever waits for the future gets it
                future.set_exception(error)
            del job, future, function

    def _client(self) -> Any:
        """This thread's client: the SDK does not promise that one may be shared."""
        version = self._api_version
        if getattr(self._clients, "version", "") != version:
            ssh = self._arguments["base_url"].startswith("ssh://")
            self._clients.api = docker.APIClient(
                **self._arguments, use_ssh_client=ssh, version=version, timeout=int(CALL_S)
            )
            self._clients.api.trust_env = False  # certificates of the environment would count before the host's own
            self._clients.version = version
        return self._clients.api


def attach(api: Any, name: str) -> socket.socket:
    """The raw two-way socket to a container's stdin and stdout, kept apart from the client's pool of connections."""
    return as_socket(api.attach_socket(name, params={"stdin": 1, "stdout": 1, "stream": 1}))


def remove(api: Any, name: str) -> None:
    """Removes a container, running or not, with its anonymous volumes; nothing happens where it is gone."""
    with contextlib.suppress(docker.errors.APIError):  # gone, or on its way out
        api.remove_container(name, force=True, v=True)


def short(error: BaseException) -> str:
    """The error in one line of bounded length."""
    text = " ".join(str(getattr(error, "explanation", None) or error or type(error).__name__).split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


# What the SDK gives is a socket of the system, a TLS socket, or pipes to an ssh process. For the last two one end of a
# pair of sockets is handed out, and daemon threads move bytes between the other end and what there was.


def as_socket(attached: Any) -> socket.socket:
    """A socket of the system with the same bytes. Whoever closes it closes the connection."""
    if hasattr(attached, "proc"):
        return _pair(_pump_pipes, attached)
    if isinstance(attached, ssl.SSLSocket):
        attached.setblocking(False)
        return _pair(_pump_tls, attached)
    copy = socket.socket(fileno=os.dup(attached.fileno()))
    attached.close()
    return copy


def _pair(pump: Any, attached: Any) -> socket.socket:
    ours, theirs = socket.socketpair()
    threading.Thread(target=pump, args=(theirs, attached), name="docker-connection", daemon=True).start()
    return ours


def _pump_tls(local: socket.socket, remote: ssl.SSLSocket) -> None:
    """One thread for both ways: a TLS connection must not be read and written at the same time."""
    waiting: list[Any] = [local, remote]
    with contextlib.suppress(OSError), local, remote:
        while remote in waiting:
            ready = waiting if remote.pending() else select.select(waiting, [], [])[0]
            if remote in ready:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):  # no data in what came
                    data = remote.recv(_CHUNK)
                    if not data:
                        return
                    local.sendall(data)
            if local in ready:
                if data := local.recv(_CHUNK):
                    _send_tls(remote, data)
                else:
                    return  # TLS has no halves: the host closes stdin when the connection ends


def _send_tls(remote: ssl.SSLSocket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[remote.send(view) :]
        except ssl.SSLWantReadError:
            select.select([remote], [], [])
        except ssl.SSLWantWriteError:
            select.select([], [remote], [])


def _pump_pipes(local: socket.socket, remote: Any) -> None:
    """Two threads, since pipes block: this one reads the process of ssh, the other writes to it."""
    process = remote.proc
    threading.Thread(target=_fill_pipe, args=(local, process), name="docker-connection", daemon=True).start()
    with contextlib.suppress(OSError), local:
        while data := process.stdout.read1(_CHUNK):
            local.sendall(data)
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()


def _fill_pipe(local: socket.socket, process: Any) -> None:
    with contextlib.suppress(OSError, ValueError), process.stdin:
        while data := local.recv(_CHUNK):
            process.stdin.write(data)
            process.stdin.flush()
