"""The SGLang servers that a config asks for, on this machine: started, waited for, followed, started again, stopped.

In: TrainConfig, a folder for their logs, where to say what happens. Out: their addresses, once all answer.

    a server that ends while all start     nothing is left running, UserError; the end of its log is said
    a server that ends later               said with the end of its log, and started again at the same address, with the
                                           weights of model.path: the engine loads the newest into it
    MAX_DEATHS ends in DEATHS_WINDOW_S     `failure` is set and it stays away; scripts/serve.py stops all, exit code 1
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.rollout.server_command import command, environment, server_gpus, url, visible_gpus
from nouscoder_jax.rollout.server_process import ServerProcess, check_ports, check_python

MAX_DEATHS, DEATHS_WINDOW_S = 3, 600.0
"""A server that ends so many times within so many seconds is given up."""
LOOK_S = 0.5
"""Seconds between two looks at the servers."""
SAY_S = 5.0
"""Seconds between two lines on servers that are starting."""
LOG_TAIL_LINES = 12
"""Lines of a log that are said when its server ends."""


class Servers:
    """The servers of a config.

    Example:
        servers = Servers(config, log_dir=Path("runs/a/servers"), say=print, beside_trainer=True)
        urls = servers.start()
        ...
        servers.stop()
    """

    def __init__(self, config: TrainConfig, *, log_dir: Path, say: Callable[[str], None], beside_trainer: bool) -> None:
        """`beside_trainer`: this machine's first GPUs are the trainer's, unless they are colocated. `say` takes a line.

        Raises UserError for what command() and server_gpus() refuse.
        """
        self._config = config
        self._log_dir = log_dir
        self._say = say
        gpus = server_gpus(config, present=visible_gpus(), beside_trainer=beside_trainer)
        self._servers = [
            ServerProcess(
                url=url(config, index),
                arguments=command(config, index),
                variables=environment(config, index, gpus=gpus),
                log=log_dir / f"server-{config.server.port + index}.log",
            )
            for index in range(config.server.num_servers)
        ]
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="servers", daemon=True)
        self._failure = ""

    @property
    def failure(self) -> str:
        """Why a server was given up, one line; empty while none was."""
        return self._failure

    def start(self) -> tuple[str, ...]:
        """Starts all and returns their addresses when all answer, saying how far they are.

        Raises UserError, and leaves nothing running, where the Python has no SGLang, a port is taken, or a server ends
        or does not answer within server.start_timeout_s.
        """
        check_ports(self._config.server)
        version = check_python(self._servers[0].arguments[0])
        count = len(self._servers)
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write the servers' logs to {self._log_dir} ({error}); name another folder"
            ) from error
        self._say(
            f"starting {count} SGLang {version} server{'s' * (count > 1)} of {self._config.model.path}, "
            f"logs in {self._log_dir}"
        )
        try:
            for server in self._servers:
                server.launch()
            self._until_ready()
        except BaseException:
            self.stop()
            raise
        self._watcher.start()
        return tuple(server.url for server in self._servers)

    def stop(self) -> None:
        """Ends all; returns once nothing of them is left, after about 5 s."""
        self._stopping.set()
        for server in self._servers:
            server.end()
        if self._watcher.is_alive():
            self._watcher.join()
        for server in self._servers:
            server.end()  # one that was being started again
            server.gone()

    def _until_ready(self) -> None:
        started, said, last_said = time.monotonic(), 0.0, ""
        while not all(server.ready for server in self._servers):
            for server in self._servers:
                if wrong := self._wrong(server):
                    self._say_log(server)
                    raise UserError(
                        f"the server {server.url} {wrong} while it started: {server.reason()}; see {server.log}"
                    )
                server.ready = server.ready or server.answers()
            passed = time.monotonic() - started
            ready = sum(server.ready for server in self._servers)
            waiting = [server for server in self._servers if not server.ready]
            state = f"{ready} of {len(self._servers)} ready" + "".join(
                f"; {server.url}: {server.stage()}" for server in waiting[:1]
            )
            if not waiting or (passed - said >= SAY_S and (state != last_said or passed - said >= 6 * SAY_S)):
                self._say(f"{passed:5.0f} s: {state}")
                said, last_said = passed, state
            time.sleep(LOOK_S)

    def _wrong(self, server: ServerProcess) -> str:
        """What is wrong with a server, or an empty text."""
        code = server.exit_code()
        passed = time.monotonic() - server.started
        if code is not None:
            by_signal = code - 128 in set(signal.Signals)
            how = f"was ended by {signal.Signals(code - 128).name}" if by_signal else f"ended with exit code {code}"
            return f"{how} after {passed:.0f} s"
        if not server.ready and passed > self._config.server.start_timeout_s:
            return f"did not answer within {self._config.server.start_timeout_s:.0f} s (server.start_timeout_s)"
        return ""

    def _watch(self) -> None:
        try:
            while not self._stopping.wait(LOOK_S):
                for server in self._servers:
                    self._look_after(server)
        except BaseException as error:  # nobody looks after the servers any more: that must not go unnoticed
            self._failure = f"the servers are no longer followed ({type(error).__name__}: {error})"
            raise

    def _look_after(self, server: ServerProcess) -> None:
        if server.keeper is None or self._stopping.is_set():  # given up, or asked to end
            return
        if wrong := self._wrong(server):
            self._say(f"the server {server.url} {wrong}")
            self._say_log(server)
            server.end()
            server.gone()
            self._start_again(server)
        elif not server.ready and server.answers():
            server.ready = True
            self._say(f"the server {server.url} answers again, after {time.monotonic() - server.started:.0f} s")

    def _start_again(self, server: ServerProcess) -> None:
        now = time.monotonic()
        server.deaths = [death for death in server.deaths if now - death < DEATHS_WINDOW_S] + [now]
        within = f"within {DEATHS_WINDOW_S / 60:.0f} minutes"
        if len(server.deaths) >= MAX_DEATHS:
            self._give_up(server, f"ended {MAX_DEATHS} times {within}")
        elif not self._stopping.is_set():
            self._say(
                f"starting it again; after {MAX_DEATHS} ends {within} it is given up, this was {len(server.deaths)}"
            )
            try:
                server.launch()
            except OSError as error:
                self._give_up(server, f"cannot be started again ({error})")

    def _give_up(self, server: ServerProcess, why: str) -> None:
        server.keeper = None
        self._failure = f"the server {server.url} {why}; see {server.log}"

    def _say_log(self, server: ServerProcess) -> None:
        self._say(f"the end of its log {server.log}:")
        for line in server.log_lines()[-LOG_TAIL_LINES:]:
            self._say(f"    {line[:300]}")
