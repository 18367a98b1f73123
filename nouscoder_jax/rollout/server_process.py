"""One SGLang server: its process, its log, whether it answers; and what can be known before it is started.

In: an argument list and variables (server_command.py). Out: a server that can be started again. It runs under a keeper
(keeper.py), so that nothing of it is left when this process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from nouscoder_jax.config import ServerConfig, UserError
from nouscoder_jax.rollout import keeper

GRACE_S = 10.0
"""Seconds that a server has to end by itself: SGLang looks every 5 whether it should, then frees its GPU."""

_LOG_TAIL_BYTES = 1 << 14
_TOLD = re.compile(r"\[\d{4}-\d\d-\d\d [^\]]*\] (.*)")
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")
_VERSION = "import importlib.metadata as metadata; print(metadata.version('sglang'))"


@dataclass(slots=True, kw_only=True)
class ServerProcess:
    """One of the servers.

    Example:
        ServerProcess(url="http://127.0.0.1:30000", arguments=[...], variables={}, log=Path("logs/server-30000.log"))
    """

    url: str
    arguments: list[str]
    variables: dict[str, str]
    log: Path
    keeper: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    """Bytes that the log had when it was last started."""
    started: float = 0.0
    ready: bool = False
    deaths: list[float] = field(default_factory=list)

    def launch(self) -> None:
        """Starts it; what it prints goes to the end of its log."""
        line = " ".join([*(f"{k}={shlex.quote(v)}" for k, v in self.variables.items()), shlex.join(self.arguments)])
        with self.log.open("ab") as log:
            log.write(f"$ {line}\n".encode())
            self.log_start = log.tell()
            log.flush()
            self.keeper = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, str(os.getpid()), str(GRACE_S), *self.arguments],
                env=os.environ | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        self.started, self.ready = time.monotonic(), False

    def answers(self) -> bool:
        """Whether it serves its model."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/model_info", timeout=2.0, trust_env=False).status_code == 200
        return False

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.keeper.poll() if self.keeper is not None else None

    def log_lines(self) -> list[str]:
        """What it printed last, since its last start."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, end - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").replace("\r", "\n").splitlines()
        return [line.rstrip() for line in lines if line.strip()]

    def stage(self) -> str:
        """What its log last says that it does."""
        told = [match[1] for line in self.log_lines() if (match := _TOLD.match(line))]
        return told[-1][:100] if told else "importing SGLang"

    def reason(self) -> str:
        """The last error in its log, or else the last line."""
        lines = self.log_lines()
        errors = [line for line in lines if _ERROR.match(line)]
        return (errors or lines or ["it printed nothing"])[-1]

    def end(self) -> None:
        """Asks it to end; `gone` waits for that."""
        if self.keeper is not None and self.keeper.poll() is None:
            self.keeper.terminate()

    def gone(self) -> None:
        """Returns once nothing of it is left."""
        if self.keeper is None:
            return
        try:
            self.keeper.wait(3 * GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.keeper.pid, signal.SIGKILL)
            self.keeper.wait()


def check_python(python: str) -> str:
    """The version of SGLang that this Python has. Raises UserError."""
    fix = (
        "install it in an environment of its own (pip install 'nouscoder-jax[sglang]'; for the CPU: make sglang) and "
        "name that: --server.python DIR/bin/python"
    )
    try:
        asked = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"server.python {python} cannot be run ({error}); {fix}") from error
    if asked.returncode != 0:
        raise UserError(f"{python} has no SGLang; {fix}")
    return asked.stdout.strip()


def check_ports(server: ServerConfig) -> None:
    """Raises UserError that names the first port that is taken."""
    for port in range(server.port, server.port + server.num_servers):
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((server.host, port))
            except OSError as error:
                raise UserError(
                    f"cannot listen at {server.host} port {port} ({error.strerror}); the {server.num_servers} servers "
                    f"take ports {server.port} to {server.port + server.num_servers - 1}: stop what listens there, or "
                    "use --server.port or --server.host"
                ) from error
