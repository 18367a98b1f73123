"""scripts/serve.py with real SGLang servers on the CPU: NOUSCODER_SGLANG_PYTHON names a Python that has SGLang."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import small_run
from small import make_config

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.rollout.servers import Servers

ROOT = Path(__file__).parents[2]
STUBS = str(ROOT / "tests/sglang_stubs")
QUICK = os.pathsep.join((str(small_run.QUICK_START), STUBS))
PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
PROMPT_TOKENS, COMPLETION_TOKENS = 16, 24

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang"),
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a server starts in 13 s of an idle machine, and in minutes of a busy one
]


def free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports."""
    for first in range(31000 + os.getpid() % 1000, 60000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def overrides(num_servers: int) -> tuple[str, ...]:
    return (
        f"--server.python={PYTHON}",
        "--server.start-timeout-s=400",
        f"--server.num-servers={num_servers}",
        f"--server.port={free_ports(num_servers)}",
        f"--data.max-prompt-tokens={PROMPT_TOKENS}",
        f"--rollout.max-completion-tokens={COMPLETION_TOKENS}",
        f"--evaluation.max-completion-tokens={COMPLETION_TOKENS}",
    )


def stats() -> dict[int, tuple[int, int]]:
    """Process -> (parent, session) of all that live; zombies do not."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent, _, session = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                found[int(name)] = (int(parent), int(session))
    return found


def keepers(starter: int) -> list[int]:
    return [pid for pid, (parent, session) in stats().items() if parent == starter and session == pid]


def members(sessions: list[int]) -> list[int]:
    return [pid for pid, (_, session) in stats().items() if session in sessions]


def until(condition, *, within_s: float, what: str):
    """What `condition` returns, once that is true."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s} s: {what}")


def server_of(keeper: int) -> int:
    """The server's own first process."""
    return until(
        lambda: [pid for pid, (parent, _) in stats().items() if parent == keeper], within_s=120, what="a server"
    )[0]


class Script:
    """A running scripts/serve.py and what it has said."""

    def __init__(self, folder: Path, num_servers: int, pythonpath: str) -> None:
        self.out = folder / "out"
        arguments = ["scripts/serve.py", "--log-dir", str(folder / "logs"), *overrides(num_servers)]
        environment = os.environ | {"PYTHONPATH": pythonpath}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=out, stderr=out, cwd=ROOT, env=environment
            )
        self.keepers: list[int] = []

    def said(self) -> str:
        return self.out.read_text()

    def until_said(self, text: str, *, within_s: float) -> str:
        """The first line with the text."""

        def line():
            assert self.process.poll() is None or text in self.said(), self.said()
            return next((line for line in self.said().splitlines() if text in line), "")

        return until(line, within_s=within_s, what=f"{text!r} in {self.said()}")

    def note_keepers(self) -> list[int]:
        self.keepers = sorted(set(self.keepers) | set(keepers(self.process.pid)))
        return self.keepers

    def end(self) -> None:
        """Whatever the tests left."""
        self.note_keepers()
        self.process.kill()
        self.process.wait()
        for pid in members(self.keepers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path):
    scripts = []

    def start_script(num_servers, pythonpath=QUICK):
        scripts.append(Script(tmp_path, num_servers, pythonpath))
        return scripts[-1]

    yield start_script
    for script in scripts:
        script.end()


def generate(url: str, max_new_tokens: int = COMPLETION_TOKENS) -> dict:
    request = {
        "input_ids": list(range(40, 40 + PROMPT_TOKENS)),
        "sampling_params": {"max_new_tokens": max_new_tokens, "ignore_eos": True, "temperature": 1.0},
        "return_logprob": True,
    }
    answer = httpx.post(f"{url}/generate", json=request, timeout=60)
    answer.raise_for_status()
    return answer.json()


def test_servers_generate_come_back_after_a_kill_and_end_with_the_script(start):
    script = start(2)
    urls = script.until_said("--rollout.urls", within_s=400).split("--rollout.urls ")[1].split()
    assert len(urls) == 2 and "2 of 2 ready" in script.said()
    for url in urls:
        answer = generate(url)
        # every token that the config promises, none cut off at the end of the context
        assert len(answer["output_ids"]) == COMPLETION_TOKENS
        assert len(answer["meta_info"]["output_token_logprobs"]) == COMPLETION_TOKENS

    os.kill(server_of(script.note_keepers()[1]), signal.SIGKILL)
    ended = script.until_said("was ended by SIGKILL", within_s=120)
    url = next(url for url in urls if url in ended)
    assert "ready to roll" in script.said()  # the end of its log
    script.until_said(f"{url} answers again", within_s=400)
    assert len(generate(url)["output_ids"]) == COMPLETION_TOKENS

    script.note_keepers()
    script.process.send_signal(signal.SIGTERM)
    assert script.process.wait(120) == 0
    assert members(script.keepers) == [] and "nothing is left running" in script.said()
    with pytest.raises(httpx.ConnectError):
        generate(url)


def test_a_script_that_is_killed_while_servers_start_leaves_none(start):
    """The server's processes are spawned: until they have imported everything they watch no parent."""
    script = start(1, pythonpath=STUBS)

    def scheduler_started():
        assert script.process.poll() is None, script.said()
        return len(members(script.note_keepers())) >= 4  # keeper, server, and what the server starts

    until(scheduler_started, within_s=120, what="processes of the server")
    script.process.kill()
    until(lambda: not members(script.keepers), within_s=120, what="all processes of the server gone")


def make_servers(folder: Path, *more: str) -> tuple[Servers, list[str]]:
    config = cli.apply_overrides(make_config(), [*overrides(1), *more])
    lines: list[str] = []
    return Servers(config, log_dir=folder, say=lines.append, beside_trainer=True), lines


def test_a_model_that_does_not_load_is_said_with_its_log_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", QUICK)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((ROOT / "configs/tiny/policy/config.json").read_bytes())
    servers, lines = make_servers(tmp_path / "logs", f"--model.path={model}")
    with pytest.raises(UserError, match=r"while it started: .*Cannot find any model weights") as error:
        servers.start()
    assert "\n" not in str(error.value) and any("the end of its log" in line for line in lines)
    assert keepers(os.getpid()) == []
