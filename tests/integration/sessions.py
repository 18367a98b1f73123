"""Sessions of scripts that start without imports of their own (launcher.py): what subprocess.Popen is to others."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")


class Session:
    """A process that runs a script; its output goes to a file."""

    def __init__(self, pid: int, output: Path, ended: Path) -> None:
        self.pid, self.output, self._ended = pid, output, ended

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return int(self._ended.read_text()) if self._ended.exists() else None

    def wait(self, timeout: float = 280) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired where it goes on for so many seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"{self.pid}: {self.told()[-3000:]}", timeout)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def told(self) -> str:
        """stdout and stderr."""
        return self.output.read_text()


class Launcher:
    """A process of launcher.py."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self._environment = environment
        self._folder = tempfile.TemporaryDirectory(prefix="nouscoder-sessions-")
        self._numbers = itertools.count()
        self.process = subprocess.Popen(
            [sys.executable, LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=root, process_group=0,
        )  # fmt: skip

    def start(
        self, script: str, *arguments: str, output: Path, environment: dict[str, str] | None = None,
        watch: dict[str, object] | None = None,
    ) -> Session:  # fmt: skip
        """Starts a script; the environment is the launcher's where none is given."""
        assert self.process.stdin is not None and self.process.stdout is not None
        ended = Path(self._folder.name) / str(next(self._numbers))
        order = {"script": script, "arguments": arguments, "environment": environment or self._environment}
        order |= {"output": str(output), "ended": str(ended), "watch": watch}
        output.touch()  # whoever reads it may be quicker than the session, which empties it
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Session(int(self.process.stdout.readline()), output, ended)

    def close(self) -> None:
        """Ends it with its sessions, should any be left."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self._folder.cleanup()


class Launchers:
    """Several in turn: sessions that follow one another, or run together, hash text differently, as those that a user
    starts."""

    def __init__(self, root: Path, environment: dict[str, str], number: int = 2) -> None:
        self._launchers = [Launcher(root, environment) for _ in range(number)]
        self._turns = itertools.cycle(self._launchers)
        self._folder = tempfile.TemporaryDirectory(prefix="nouscoder-outputs-")
        self._numbers = itertools.count()

    def start(
        self, script: str, *arguments: str, output: Path | None = None, environment: dict[str, str] | None = None
    ) -> Session:
        """Starts a script with the next of them."""
        output = output or Path(self._folder.name) / str(next(self._numbers))
        return next(self._turns).start(script, *arguments, output=output, environment=environment)

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a script that was run to its end."""
        session = self.start(script, *arguments)
        try:
            return session.wait(), session.told()
        finally:
            session.kill()

    def close(self) -> None:
        for launcher in self._launchers:
            launcher.close()
        self._folder.cleanup()
