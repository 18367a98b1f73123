"""Whole runs in several processes on this machine (jax.distributed, CPU collectives)."""

import dataclasses
import functools
import json
import math
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import small_run
from sessions import Launchers, Session

from nouscoder_jax.loop.processes import PROCESS_ID
from nouscoder_jax.run_folder import RunFolder

# At a small learning rate the rounding of a mesh does not flip a draw of the next step.
SMALL = [
    *small_run.ARGUMENTS,
    "--num-steps=4",
    "--optimizer.learning-rate=1e-5",
    "--experience.rows-per-micro-batch=4",
    "--checkpoint.every-steps=2",
]
MESHES = {
    "data 2": {"data": 2, "fsdp": 1, "tensor": 1},
    "fsdp 2": {"data": 1, "fsdp": 2, "tensor": 1},
    "tensor 2": {"data": 1, "fsdp": 1, "tensor": 2},
    "data 2 x fsdp 2": {"data": 2, "fsdp": 2, "tensor": 1},
}
ONE = {"data": 1, "fsdp": 1, "tensor": 1}


@dataclasses.dataclass
class Processes:
    """A run of some processes, one device each."""

    launchers: Launchers
    folder: Path
    cache: Path
    running: list[Session] = dataclasses.field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def start(self, mesh: str | None, *arguments: str) -> None:
        """Starts or resumes, on a mesh or in one process."""
        self.folder.mkdir(exist_ok=True)
        axes = MESHES[mesh] if mesh else ONE
        number = math.prod(axes.values())
        resume = RunFolder(path=self.run_dir).config.exists()
        command = ["--resume", str(self.run_dir)] if resume else [f"--run-dir={self.run_dir}", *SMALL]
        command += [f"--mesh.{axis}={size}" for axis, size in axes.items()]
        command += [f"--mesh.num-processes={number}", *arguments]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = small_run.environment(self.cache, devices=1, optimization=0) | {
            "JAX_COORDINATOR_ADDRESS": address
        }
        self.running = [
            self.launchers.start(
                "train.py", *command, output=self.log(process), environment=environment | {PROCESS_ID: str(process)}
            )
            for process in range(number)
        ]

    def log(self, process: int) -> Path:
        return self.folder / f"{process}.log"

    def told(self, process: int) -> str:
        return self.log(process).read_text()

    def wait(self) -> list[int]:
        """Exit codes, once all have ended."""
        try:
            return [process.wait(timeout=400) for process in self.running]
        finally:
            self.end()

    def finish(self) -> None:
        assert set(self.wait()) == {0}, "\n".join(self.told(number)[-3000:] for number in range(len(self.running)))

    def end(self) -> None:
        """Whatever a test that failed has left."""
        for process in self.running:
            process.kill()
            process.wait()

    def send(self, number: int, process: int, *, after: str) -> None:
        """A signal to one of them once a file is there."""
        deadline = time.monotonic() + 400
        while not (self.run_dir / after).exists():
            assert time.monotonic() < deadline and all(one.poll() is None for one in self.running), self.told(0)
            time.sleep(0.01)
        self.running[process].send_signal(number)

    def weights(self) -> dict[str, np.ndarray]:
        files = RunFolder(path=self.run_dir).export.glob("*.safetensors")
        return {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}

    def hashes(self) -> dict[str, str]:
        manifest = json.loads((RunFolder(path=self.run_dir).export / "manifest.json").read_text())
        return {name: entry["hash"] for name, entry in manifest["tensors"].items()}

    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in RunFolder(path=self.run_dir).metrics.read_text().splitlines()]

    def rollouts(self) -> list[tuple]:
        """What was drawn, written, judged and made of it."""
        lines = [
            json.loads(line)
            for path in sorted(RunFolder(path=self.run_dir).rollouts.iterdir())
            for line in path.read_text().splitlines()
        ]
        names = ("step", "group_id", "sample_index", "policy_version", "text", "reward", "advantage", "trained")
        return [tuple(line[name] for name in names) for line in lines]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(
    launchers: Launchers, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str | None], Processes]:
    """whole(mesh): the run on that mesh, from its start to its end; None: in one process."""

    @functools.cache
    def make(mesh: str | None) -> Processes:
        run = Processes(launchers, tmp_path_factory.mktemp("whole") / "it", cache)
        run.start(mesh)
        run.finish()
        return run

    return make


@pytest.fixture
def several(launchers: Launchers, cache: Path, tmp_path: Path) -> Iterator[Processes]:
    run = Processes(launchers, tmp_path / "several", cache)
    yield run
    run.end()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mesh", ["fsdp 2", "tensor 2", "data 2 x fsdp 2"])
def test_several_processes_do_what_one_does(mesh: str, whole: Callable[[str | None], Processes]):
    alone, several = whole(None), whole(mesh)
    assert several.rollouts() == alone.rollouts()
    compared = 0
    for one, other in zip(alone.metrics(), several.metrics(), strict=True):
        assert other.keys() == one.keys()
        for name in ("update/loss", "update/grad_norm", "update/entropy", "update/drift_max", "held_out/pass_at_1"):
            if name in one:
                assert other[name] == pytest.approx(one[name], abs=1e-5), name
                compared += 1
    assert compared >= 4 + 2  # a step whose groups are all filtered has no update
    ours, theirs = several.weights(), alone.weights()
    assert ours.keys() == theirs.keys()
    differences = np.concatenate([(array - theirs[name]).ravel() for name, array in ours.items()])
    # Adam turns the rounding of a gradient near zero into a step of its own: one weight may differ, not many.
    assert np.sqrt(np.mean(differences**2)) < 1e-6
    everything = {path.name for path in several.run_dir.iterdir()}
    assert everything == {path.name for path in alone.run_dir.iterdir()}  # nothing is a process's own


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_four_processes_goes_on_in_two_and_in_one(several: Processes):
    several.start("data 2 x fsdp 2", "--num-steps=2")
    several.finish()
    weights = several.hashes()
    for mesh in ("tensor 2", None):
        several.start(mesh)
        several.finish()
        assert several.hashes() == weights  # restored and exported, not a bit changed
        assert "resumed after step 2" in several.told(0)
    several.start("fsdp 2", "--num-steps=4")
    several.finish()
    assert [line["step"] for line in several.metrics()] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_whoever_is_killed_all_end_at_once_and_a_resumed_run_ends_the_same(
    several: Processes, whole: Callable[[str | None], Processes]
):
    uninterrupted = whole("fsdp 2")
    several.start("fsdp 2")
    several.send(signal.SIGKILL, 1, after="rollouts/step-000001.jsonl")  # a hand, in the middle of an update
    assert several.wait() == [1, -signal.SIGKILL]
    (line,) = (line for line in several.told(0).splitlines() if line.startswith("error:"))
    assert "process 1 on " in line and f"--resume {several.run_dir}" in line

    several.start("fsdp 2")
    several.send(signal.SIGKILL, 0, after="rollouts/step-000003.jsonl")  # the head
    assert several.wait() == [-signal.SIGKILL, 1]
    (line,) = (line for line in several.told(1).splitlines() if line.startswith("error:"))
    assert "process 0 on " in line and "is gone" in line

    several.start("fsdp 2")
    several.finish()
    assert several.hashes() == uninterrupted.hashes()
    assert several.rollouts() == uninterrupted.rollouts()
    losses = [[(line["step"], line.get("update/loss")) for line in run.metrics()] for run in (several, uninterrupted)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sigterm_at_any_process_ends_the_run_in_order(several: Processes):
    for process in (1, 0):
        several.start("data 2", "--num-steps=500")
        done = len(several.metrics()) if RunFolder(path=several.run_dir).metrics.exists() else 1
        several.send(signal.SIGTERM, process, after=f"rollouts/step-{done + 1:06d}.jsonl")
        several.finish()
        assert "SIGTERM" in several.told(0)
        steps = [line["step"] for line in several.metrics()]
        assert steps == list(range(len(steps))) and len(steps) > done + 1
        assert json.loads(RunFolder(path=several.run_dir).summary.read_text())["steps"] == steps[-1]
    assert "resumed after step" in several.told(0)
