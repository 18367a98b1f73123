"""The one protocol of child processes: a request is a line of JSON on stdin, its answer a line of JSON on stdout.

In: requests such as `{"do": "update"}`, with arguments where the bench has some. Out: first `{"ready": facts}`, then an
answer a request. Both ends are here; standard library only: a child runs in the environment of what it measures.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_LOG_LINES = 5
_ENDING_S = 30.0

Answers = Mapping[str, Callable[..., dict[str, Any]]]
"""What a child can be asked to do, by name."""


def serve(make: Callable[[Path], tuple[dict[str, Any], Answers]]) -> None:
    """The child: makes facts and answers for the folder that argv ends with, then answers until stdin closes."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    facts, answers = make(Path(sys.argv[-1]))
    tell({"ready": facts})
    for line in sys.stdin:
        request = json.loads(line)
        tell(answers[request.pop("do")](**request))


def versions(*packages: str) -> dict[str, str]:
    """Of installed packages."""
    return {name: importlib.metadata.version(name) for name in packages}


def timed(work: Callable[[], dict[str, Any]], *, cpu_s: Callable[[], float] = time.process_time) -> dict[str, Any]:
    """What the work returns, and the seconds that it took: of the wall, and of the CPU by `cpu_s`."""
    wall, cpu = time.perf_counter(), cpu_s()
    found = work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_s() - cpu, **found}


class WorkerError(RuntimeError):
    """A child has ended without an answer; its last lines are the message."""


class Worker:
    """The parent's end.

    Example:
        with Worker("trl", [python, "-m", "nouscoder_jax.bench.update.trl"], folder, environment(2)) as trl:
            facts = trl.wait_ready()
            answer = trl.ask("update")
    """

    def __init__(self, name: str, command: list[str], folder: Path, variables: Mapping[str, str]) -> None:
        """The command gets `folder` as its last argument; its log is written there."""
        self.name = name
        self._facts: dict[str, Any] | None = None
        self._log = folder / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=os.environ | variables,
            )  # fmt: skip

    def wait_ready(self) -> dict[str, Any]:
        """Returns, when it can be asked, how it computes. Raises WorkerError."""
        if self._facts is None:
            self._facts = self._answer()["ready"]
        return dict(self._facts or {})

    def ask(self, todo: str, **arguments: Any) -> dict[str, Any]:
        """One request. Raises WorkerError."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": todo, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_lines()) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # anything else was printed by a library at import
                return json.loads(line)
        raise WorkerError(self._last_lines())

    def _last_lines(self) -> str:
        self._process.wait()
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{self.name} ended with {self._process.returncode}: " + " | ".join(lines[-_LOG_LINES:])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it: by closing its stdin, so that it can stop what it has started, and then by force."""
        try:
            self._process.communicate(timeout=_ENDING_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.communicate()


def environment(num_threads: int, *paths: Path) -> dict[str, str]:
    """Variables of a child on the CPU that finds this package and `paths`. XLA makes as many threads as the process may
    use cores, which the bench limits; everything else gets the number."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(num_threads)) | {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths))),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "XLA_FLAGS": "",
    }
