"""SGLang's server on the CPU as a contender of `bench.py generate`: started here, asked over HTTP.

In: a Python with SGLang, the folder of the workload. Out: answers to "turn"; their CPU time is the server's.

The server keeps one OpenMP thread a process: with two it is ten times slower, because they wait by spinning.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from nouscoder_jax.bench.cpu import tree_cpu_s
from nouscoder_jax.bench.generate.workload import NUM_SLOTS, Generated, Request, answers
from nouscoder_jax.bench.worker import Answers, serve

STUBS = Path(__file__).parents[3] / "tests" / "sglang_stubs"
"""Stand for packages that have no CPU wheel."""
_START_S, _TURN_S = 400.0, 1200.0


class Server:
    """The server's processes and its address."""

    def make(self, folder: Path) -> tuple[dict[str, Any], Answers]:
        """Starts the server with the workload's weights; what asks it. Raises SystemExit where it does not start."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.argv[1], "-m", "sglang.launch_server", "--model-path", str(folder / "model"), "--device", "cpu"]
        command += ["--dtype", "float32", "--attention-backend", "torch_native", "--grammar-backend", "none"]
        command += ["--max-total-tokens", "8192", "--max-running-requests", str(NUM_SLOTS), "--skip-server-warmup"]
        command += ["--skip-tokenizer-init", "--host", "127.0.0.1", "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": str(STUBS), "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=2, start_new_session=True)
        atexit.register(self.stop)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_TURN_S)
        until = time.monotonic() + _START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit("SGLang's server did not start; its last lines stand above")
            time.sleep(0.5)
        facts = {"openmp_threads": 1, "version": self.client.get("/server_info").json().get("version", "unknown")}
        return facts, answers("sglang", folder, self.generate, cpu_s=lambda: tree_cpu_s([self.process.pid]))

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.client.get("/model_info", timeout=5).status_code == 200
        return False

    def generate(self, requests: list[Request]) -> list[Generated]:
        """One call with all requests; the server batches them."""
        sampling = [
            {"temperature": 1.0, "max_new_tokens": request.num_tokens, "ignore_eos": True} for request in requests
        ]
        prompts = [list(request.prompt) for request in requests]
        asked = {"input_ids": prompts, "sampling_params": sampling, "return_logprob": True}
        answers = self.client.post("/generate", json=asked).raise_for_status().json()
        pairs = [answer["meta_info"]["output_token_logprobs"] for answer in answers]
        return [Generated([one[1] for one in each], [one[0] for one in each]) for each in pairs]

    def stop(self) -> None:
        """Kills what was started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


if __name__ == "__main__":
    serve(Server().make)
