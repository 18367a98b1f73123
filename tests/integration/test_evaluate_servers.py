"""One model drawn by this process, by servers that evaluate.py starts and by one that runs: the same completions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import small_run
from test_serve_script import QUICK, free_ports

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
POLICY = str(ROOT / "configs/tiny/policy")
SMALL = ["--samples=2", "--evaluation.temperature=0.0001", "--verifier.backend=local", "--data.max-prompt-tokens=128"]
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "SGLANG_USE_CPU_ENGINE": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, (QUICK, os.environ.get("PYTHONPATH")))),
}


def start(script, *arguments, log):
    command = [sys.executable, f"scripts/{script}.py", *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output)


def evaluated(tmp_path, name, *arguments, problems, tokens=48):
    log, out = tmp_path / f"{name}.log", tmp_path / name
    arguments = [*SMALL, f"--problems={problems}", f"--max-tokens={tokens}", f"--out={out}", *arguments]
    assert start("evaluate", *arguments, log=log).wait(timeout=500) == 0, log.read_text()
    return json.loads((out / "result.json").read_text())["problems"]


def test_all_engines_draw_the_same(tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join((ROOT / small_run.HERE / "held_out_8.jsonl").read_text().splitlines(True)[:3]))
    port, log = free_ports(2), tmp_path / "serve.log"
    servers = [f"--server.python={PYTHON}", "--server.start-timeout-s=400"]
    here = evaluated(tmp_path, "here", "--model", POLICY, problems=problems)
    own = [*servers, f"--server.port={port}", "--rollout.engine=sglang"]
    assert evaluated(tmp_path, "own", "--model", POLICY, *own, problems=problems) == here
    serving = start("serve", f"--log-dir={tmp_path}", *servers, f"--server.port={port + 1}", log=log)
    try:
        deadline = time.monotonic() + 400
        while "ready; train with" not in log.read_text():
            assert serving.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        url = f"http://127.0.0.1:{port + 1}"
        before = httpx.get(f"{url}/model_info", timeout=20).json()["weight_version"]
        assert evaluated(tmp_path, "url", "--model", url, problems=problems) == here
        assert httpx.get(f"{url}/model_info", timeout=20).json()["weight_version"] == before
        dying, samples = tmp_path / "dying.log", tmp_path / "dying/samples.jsonl"
        many = ["--samples=300", f"--out={samples.parent}", "--rollout.outage-limit-s=1", "--max-tokens=48"]
        waiting = start("evaluate", *SMALL, *many, f"--problems={problems}", "--model", url, log=dying)
        while not (samples.exists() and samples.stat().st_size):
            assert waiting.poll() is None, dying.read_text()
            time.sleep(0.05)
        serving.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=300) == 1
        assert f"look at the log of {url} and start what ended; what was judged is in" in dying.read_text()
        assert samples.stat().st_size
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(timeout=60)
