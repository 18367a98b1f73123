"""One container of a Docker host: how it is made, the connection to its runner, and what it died of.

In: a verifier config; Docker's frames; the host's account of a container. Out: the configuration that it is made from,
a `RunnerConnection`, a JudgeError. Each container has no network, a read-only root, two small tmpfs, limits on memory
and processes, and only the capabilities that the runner (pid 1) needs to become somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import docker.types

from nouscoder_jax.config import VerifierConfig
from nouscoder_jax.types import JudgeError
from nouscoder_jax.verifier import bundle
from nouscoder_jax.verifier.connection import RunnerConnection
from nouscoder_jax.verifier.sandbox import RunnerLostError

_CHUNK = 1 << 16
OWNER_LABEL = "nouscoder.judge"
UID = 10001
_CAPABILITIES = ["SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER"]
_TMPFS = "rw,nosuid,nodev,noexec,size=64m,nr_inodes=4096,mode=1777"
_RUNNER_MIB = 192
"""Memory of a container beyond the program's: the runner, two tmpfs, input and output files."""
_RUNNER_PROCESSES = 8
_KILLED, _UNKNOWN = 128 + 9, 255


def creation(api: Any, config: VerifierConfig, *, command: list[str], owner: str) -> Any:
    """The configuration of all containers, made once, for `create_container_from_config` of an SDK client."""
    memory = f"{config.memory_limit_mib + _RUNNER_MIB}m"
    host_config = api.create_host_config(
        read_only=True, cap_drop=["ALL"], cap_add=_CAPABILITIES, mem_limit=memory, memswap_limit=memory,
        security_opt=["no-new-privileges"], runtime=config.runtime or None,
        pids_limit=config.max_processes + _RUNNER_PROCESSES, ipc_mode="none",
        tmpfs={"/tmp": _TMPFS, "/dev/shm": _TMPFS}, log_config=docker.types.LogConfig(type="none"),
        ulimits=[
            docker.types.Ulimit(name="stack", soft=-1, hard=-1), docker.types.Ulimit(name="core", soft=0, hard=0)
        ],
    )  # fmt: skip
    return api.create_container_config(  # stdin_open: the SDK has it end when its stdin is closed, whoever closes it
        config.image, command, entrypoint=[], environment=bundle.ENVIRONMENT, stdin_open=True, network_disabled=True,
        stop_signal="SIGKILL", user="0:0", working_dir="/", labels={OWNER_LABEL: owner}, host_config=host_config,
    )  # fmt: skip


class FramedConnection(RunnerConnection):
    """A connection whose stdout comes in Docker's frames: stream (1 byte), 3 zeros, length (4 bytes), data."""

    def __init__(
        self,
        framed: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        why_lost: Callable[[str], Awaitable[JudgeError]],
    ) -> None:
        super().__init__(framed, writer, why_lost=why_lost)
        self._framed, self._stream = framed, writer
        self._unpacked = bytearray()

    @property
    def has_ended(self) -> bool:
        """The Docker host closed its end: the container is gone, or the host."""
        return self._framed.at_eof() or self._framed.exception() is not None

    async def until_end(self) -> None:
        """Waits until the Docker host closes its end. Raises OSError."""
        while await self._framed.read(_CHUNK):
            continue

    async def read(self, size: int) -> bytes:
        while len(self._unpacked) < size:
            head = await self._framed.readexactly(8)
            data = await self._framed.readexactly(int.from_bytes(head[4:], "big"))
            if head[0] == 1:
                self._unpacked += data
        data = bytes(self._unpacked[:size])
        del self._unpacked[:size]
        return data

    def hang_up(self) -> None:
        """Tells the runner that nothing more comes; it then ends. Where the stream has no halves, all of it closes."""
        if self._stream.can_write_eof():
            self._stream.write_eof()
        else:
            self._stream.close()

    def close(self) -> None:
        """Lets go of the stream."""
        self._stream.close()


class Container:
    """One running container and the connection to its runner."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rollouts = 0
        self.connection: FramedConnection


def cause_of_end(state: Mapping[str, Any], what: str) -> JudgeError:
    """Whose doing it was that a container whose connection broke has ended: RunnerLostError, perhaps the program's; any
    other JudgeError, surely not. `state`: the Docker host's account of it, `what`: happened to the connection.

    pid 1 of a container cannot be killed from inside, so SIGKILL came from outside unless the memory limit sent it. A
    runner leaves with 0 when its connection is closed, which a program cannot do. 255 is what a Docker host says that
    lost sight of a container.
    """
    code = state.get("ExitCode")
    if state.get("OOMKilled"):
        return RunnerLostError(f"the container was ended for its memory ({what})")
    if code == _KILLED:
        return JudgeError(f"the container was killed from outside ({what})")
    if code == 0:
        return JudgeError(f"the connection to the container was closed ({what})")
    if code in (None, _UNKNOWN):
        return JudgeError(f"the Docker host does not know how the container ended ({what})")
    return RunnerLostError(f"the runner ended with exit code {code} ({what})")
