"""One of two processes of test_memory_of_processes.py: loads, exports and saves a model of some size."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # small.py


def main(model: str, folder: str, process: str, port: str) -> None:
    """The head prints each stage before it begins, and `done` after the last one."""
    from small import make_config

    from nouscoder_jax.loop.processes import start_processes
    from nouscoder_jax.training import hands
    from nouscoder_jax.training.export import version_dir

    config = make_config(
        model={"path": model, "compute_dtype": "bfloat16"},
        mesh={"fsdp": 2, "num_processes": 2, "coordinator_address": f"127.0.0.1:{port}"},
        checkpoint={"export_dtype": "bfloat16"},
    )
    os.environ["NOUSCODER_PROCESS_ID"] = process
    if start_processes(config) > 0:
        hands.leave(hands.serve())
    with hands.gather() as crew:
        trainer = hands.RemoteTrainer(config, crew, say=print)
        for stage in ("load", "export", "checkpoint", "restore", "done"):
            print(stage, flush=True)
            match stage:
                case "load":
                    trainer.start()
                case "export":
                    trainer.export(version_dir(Path(folder), 1), policy_version=1)
                case "checkpoint":
                    trainer.open(Path(folder) / "checkpoints")
                    trainer.checkpoint(1, {"step": 1}, pass_at_1=None)
                    while trainer.busy():
                        trainer.check()
                case "restore":
                    trainer.restore(None)
        trainer.close()
    hands.leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
