"""A process of test_checkpoint_crashes.py, run as a script: it saves step after step, until it is killed or fails."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

SHAPES = {"a": (512, 1024), "b": (256, 1024), "c": (1024,)}
"""3 MiB of float32, in the model and in the moments each."""
MIB = 2 * sum(4 * int(np.prod(shape)) for shape in SHAPES.values()) / 2**20


def state_of(step: int):
    """A state that only this step has. Random: it does not compress."""
    import jax.numpy as jnp

    from nouscoder_jax.training.state import TrainState

    rng = np.random.default_rng(step)

    def arrays():
        return {name: jnp.asarray(rng.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()}

    return TrainState(arrays(), {"mu": arrays()}, jnp.int32(step))  # pyright: ignore[reportArgumentType]


def save_for_ever(directory: str, at: str) -> None:
    """Saves every step after the newest; with `at`, "rename 4", dies where it would call os.rename the fourth time."""
    from nouscoder_jax.training.checkpoint import Checkpointer

    if at:
        name, call = at.split()
        kill_at(os, name, call=int(call))
    with Checkpointer(Path(directory), keep=2) as checkpointer:
        step = checkpointer.latest_step() or 0
        while True:
            step += 1
            checkpointer.save(step, state_of(step), {"step": step})
            print("saving", step, flush=True)


def kill_at(module, name: str, *, call: int) -> None:
    function, calls = getattr(module, name), []

    def counted(*arguments, **named):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    setattr(module, name, counted)


def save_until_refused(directory: str, how: str) -> None:
    """Saves steps 1 and 2, then is refused by the system; prints what it is told, and what it left behind."""
    import gc
    import threading

    from nouscoder_jax.config import UserError
    from nouscoder_jax.training.checkpoint import Checkpointer

    folder = Path(directory)
    checkpointer = Checkpointer(folder, keep=1)
    step = 0
    try:
        while step < 20:
            step += 1
            if step == 3:
                refuse(folder, how)
            checkpointer.save(step, state_of(step), {"step": step})
            while checkpointer.busy():
                checkpointer.check()
            checkpointer.check()
        print("nothing failed")
    except UserError as error:
        print(error)
    try:
        checkpointer.close()
        print("closed")
    except UserError as error:
        print("again:", error)
    gc.collect()  # an idle thread of an event loop ends when the loop goes, which the error's traceback has held
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join(timeout=20.0)
    print(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
    print(step, flush=True)


def refuse(folder: Path, how: str) -> None:
    """What goes wrong; `full` needs nothing, the file system that the parent made is small."""
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif how == "permission":
        folder.chmod(0o555)
        if os.getuid() == 0:  # whom modes do not stop
            os.setuid(12345)
    elif how == "file":
        folder.rename(folder.with_name("moved"))
        folder.write_text("")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"for_ever": save_for_ever, "until_refused": save_until_refused}[command](*arguments)
