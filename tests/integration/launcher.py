"""Starts sessions of scripts: each is a process of its own, forked from this one, which has imported everything and
done nothing else. Imports are a third of a small run, and two thirds of a session that soon ends.

Every line on stdin is a session in JSON; its process id comes back as a line on stdout, and its exit code (-9: SIGKILL)
is in the file ENDED once it has ended. Whatever runs when stdin is closed is killed.

    {"script": "train.py", "arguments": [ARGUMENT, ...], "environment": {NAME: VALUE}, "output": FILE, "ended": FILE,
     "watch": null or the arguments of crash_watch.Watch}
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import sys

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
IMPORTED = (
    "nouscoder_jax.cli", "nouscoder_jax.loop.run", "transformers.models.auto.tokenization_auto", "matplotlib.pyplot",
    "tensorboardX",
)  # fmt: skip
RUNNING: dict[int, str] = {}
"""Process id -> ENDED."""


def session(*, script: str, arguments: list[str], environment: dict[str, str], output: str, watch: dict | None) -> None:
    """This process becomes the script with these arguments."""
    nothing, said = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number, handle in enumerate((nothing, said, said)):
        os.dup2(handle, number)
    os.environ.clear()
    os.environ.update(environment)
    importlib.import_module("jax").config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
    if watch is not None:
        sys.addaudithook(importlib.import_module("crash_watch").Watch(**watch).hook)
    sys.argv = [script, *arguments]
    runpy.run_path(os.path.join(SCRIPTS, script), run_name="__main__")


def reap(*_: object) -> None:
    """Says of every session that has ended how it did."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            file = RUNNING.pop(ended[0])
            with open(f"{file}.part", "w") as code:
                code.write(str(os.waitstatus_to_exitcode(ended[1])))
            os.rename(f"{file}.part", file)


def main() -> None:
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, reap)
    while line := sys.stdin.readline():
        order = json.loads(line)
        ended = order.pop("ended")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        child = os.fork()
        if child == 0:
            gc.enable()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            return session(**order)
        RUNNING[child] = ended
        print(child, flush=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    for child in list(RUNNING):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return None


if __name__ == "__main__":
    main()
