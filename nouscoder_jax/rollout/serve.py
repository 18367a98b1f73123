"""What scripts/serve.py does: the servers of a config in the foreground, or the command lines that would start them.

In: TrainConfig, a folder for logs, where to say what happens. Out: an exit code, or lines of shell.
"""

from __future__ import annotations

import shlex
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nouscoder_jax.config import TrainConfig
from nouscoder_jax.rollout.server_command import command, environment, server_gpus, visible_gpus
from nouscoder_jax.rollout.servers import Servers

LOOK_S = 0.5
"""Seconds between two looks at whether a server was given up."""


def serve(config: TrainConfig, *, log_dir: Path, say: Callable[[str], None]) -> int:
    """Runs the servers until Ctrl-C or SIGTERM (0) or until one is given up (1).

    Raises UserError, and KeyboardInterrupt for the signals while they start; nothing is left running then.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = Servers(config, log_dir=log_dir, say=say, beside_trainer=False)
    urls = servers.start()
    try:
        say(f"ready; train with: --rollout.engine sglang --rollout.urls {' '.join(urls)}")
        if config.server.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
            others = (f"http://{name}:{config.server.port + index}" for index in range(config.server.num_servers))
            say(f"from other machines: --rollout.urls {' '.join(others)}")
        say("Ctrl-C stops the servers")
        while not servers.failure:
            time.sleep(LOOK_S)
        say(f"giving up: {servers.failure}")
        return 1
    except KeyboardInterrupt:
        say("stopping the servers")
        return 0
    finally:
        servers.stop()
        say("nothing is left running")


def command_lines(config: TrainConfig) -> list[str]:
    """One line of shell for each server, as `serve` would start it. GPUs are numbered where this machine has too few.

    Raises UserError as `command` does.
    """
    needed = config.server.num_servers * config.server.tensor
    present = visible_gpus()
    gpus = server_gpus(
        config,
        present=present if len(present) >= needed else [str(number) for number in range(needed)],
        beside_trainer=False,
    )
    lines = []
    for index in range(config.server.num_servers):
        variables = (f"{k}={shlex.quote(v)}" for k, v in environment(config, index, gpus=gpus).items())
        lines.append(" ".join([*variables, shlex.join(command(config, index))]))
    return lines
