"""Processes of test_export.py, run as a script: one that is killed, or one of two that export together."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # small.py


def make_architecture():
    from small import make_architecture as make

    return make(num_layers=3, tie_word_embeddings=False)


def random_model():
    """The same in every process."""
    import jax

    from nouscoder_jax.model.weights import abstract_model

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 1, leaf.shape).astype(np.float32), abstract_model(make_architecture())
    )


def export_killed(target: str, at: str) -> None:
    """Dies where it would call os.AT for the first time."""
    from nouscoder_jax.training.export import export

    setattr(os, at, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    export(
        random_model(),
        make_architecture(),
        Path(target),
        dtype="float32",
        tokenizer_dir=None,
        policy_version=1,
    )


def export_together(folder: str, process: str, port: str) -> dict[str, Any]:
    """Version 1 to a folder that both see; version 2 while process 1 cannot write."""
    from small import make_config

    from nouscoder_jax.config import UserError
    from nouscoder_jax.loop.processes import start_processes
    from nouscoder_jax.training import hands
    from nouscoder_jax.training.export import version_dir
    from nouscoder_jax.training.trainer import LocalTrainer

    config = make_config(
        model={"compute_dtype": "bfloat16"},
        mesh={"fsdp": 2, "num_processes": 2, "coordinator_address": f"127.0.0.1:{port}"},
        checkpoint={"export_dtype": "bfloat16"},
    )
    os.umask(0o007 if process == "1" else 0o022)
    os.environ["NOUSCODER_PROCESS_ID"] = process
    start_processes(config)
    if process == "1":
        write_share = LocalTrainer.write_share

        def limited(self: Any, out_dir: Path, **fields: int) -> None:
            if fields["policy_version"] == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            write_share(self, out_dir, **fields)

        LocalTrainer.write_share = limited
        code = hands.serve()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return {"code": code}
    told = {}
    with hands.gather() as crew:
        trainer = hands.RemoteTrainer(config, crew, say=print)
        trainer.start()
        for version in (1, 2):
            try:
                trainer.export(version_dir(Path(folder), version), policy_version=version)
            except UserError as error:
                told["failure"] = str(error)
    return told


def run_two(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes printed; one CPU device in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    logs = [folder / f"{process}.log" for process in range(2)]
    processes = []
    for process, log in enumerate(logs):
        command = [sys.executable, __file__, "together", str(folder / "weights"), str(process), str(port)]
        with log.open("w") as errors:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
            )
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, log in zip(processes, logs, strict=True):
        assert process.returncode == 0, log.read_text()[-3000:]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "killed":
        export_killed(*arguments)
    else:
        from nouscoder_jax.training.hands import leave

        print(json.dumps(export_together(*arguments)))
        leave(0)
