"""Command lines of servers, GPUs they take, and the keeper that leaves nothing running; no SGLang is needed, except to
read its own command line."""

import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.loop.processes import share_gpus
from nouscoder_jax.rollout import keeper
from nouscoder_jax.rollout.serve import command_lines
from nouscoder_jax.rollout.server_command import command, environment, server_gpus, url
from nouscoder_jax.rollout.server_process import ServerProcess
from nouscoder_jax.rollout.servers import Servers

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "tests/sglang_stubs"
PYTHON = os.environ.get("NOUSCODER_SGLANG_PYTHON", "")
needs_sglang = pytest.mark.skipif(not PYTHON, reason="NOUSCODER_SGLANG_PYTHON names no Python with SGLang")
QWEN3_14B = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 40960}
GRPO_14B = "configs/dapo.py"


def config_of(file="configs/tiny.py", *overrides):
    return cli.apply_overrides(cli.load_config_file(ROOT / file), overrides)


def flags(config, index=0):
    """Flag -> its value; True where it has none."""
    arguments = command(config, index)[3:]
    found, name = {}, ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument
            found[name] = True
        else:
            found[name] = argument
    return found


@pytest.fixture
def qwen3_14b(tmp_path):
    """A folder with the config.json of Qwen3-14B, as transformers 4 writes it."""
    folder = tmp_path / "Qwen3-14B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_14B | {"rope_theta": 1000000, "rope_scaling": None}))
    return folder


# ---- what a server is started with


def test_the_tiny_config_asks_for_a_float32_server_on_the_cpu():
    found = flags(config_of())
    assert (found["--device"], found["--dtype"]) == ("cpu", "float32")
    assert (found["--attention-backend"], found["--grammar-backend"]) == ("torch_native", "none")
    assert found["--skip-tokenizer-init"] is True and found["--model-path"] == str(ROOT / "configs/tiny/policy")


def test_as_many_sequences_run_at_once_as_are_sent():
    assert flags(config_of("configs/tiny.py", "--rollout.num-slots=48"))["--max-running-requests"] == "48"


def test_servers_have_ports_and_seeds_of_their_own():
    config = config_of("configs/tiny.py", "--server.num-servers=2", "--server.port=4000", "--seed=7")
    ports_and_seeds = [(flags(config, index)["--port"], flags(config, index)["--random-seed"]) for index in (0, 1)]
    assert ports_and_seeds == [("4000", "7"), ("4001", "8")]
    assert [url(config, index) for index in (0, 1)] == ["http://127.0.0.1:4000", "http://127.0.0.1:4001"]


def test_a_server_that_listens_everywhere_is_reached_here():
    assert url(config_of("configs/tiny.py", "--server.host=0.0.0.0"), 0) == "http://127.0.0.1:30000"


def test_flags_of_the_config_come_last_so_that_they_count():
    config = config_of("configs/tiny.py")
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, flags=("--random-seed", "99")))
    assert command(config, 0)[-2:] == ["--random-seed", "99"] and flags(config)["--random-seed"] == "99"


def test_the_14b_config_needs_two_positions_more_than_qwen3_states(qwen3_14b):
    """40,960 tokens of evaluation; SGLang ends a completion two tokens before its context length."""
    found = flags(config_of(GRPO_14B, f"--model.path={qwen3_14b}"))
    assert found["--context-length"] == "40962" and found["--dtype"] == "bfloat16"
    assert json.loads(found["--json-model-override-args"]) == {"max_position_embeddings": 40962}


def long_14b(folder, *overrides):
    """Evaluation at 81,920 tokens."""
    yarn = ("--model.yarn-factor=2.5", "--evaluation.max-completion-tokens=79872")
    return config_of(GRPO_14B, f"--model.path={folder}", *yarn, *overrides)


@pytest.mark.parametrize("dialect", ["rope_theta", "rope_parameters"])
def test_yarn_of_81920_tokens_keeps_the_theta_of_either_dialect(tmp_path, dialect):
    theta = {"rope_theta": 1e6} if dialect == "rope_theta" else {"rope_parameters": {"rope_theta": 1e6}}
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_14B | theta))
    found = flags(long_14b(tmp_path))
    override = json.loads(found["--json-model-override-args"])
    rope = override.pop("rope_scaling")
    assert found["--context-length"] == "81922" and override == {"max_position_embeddings": 81922}
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 2.5, 32768)
    assert rope["rope_theta"] == 1e6


def test_a_context_that_fits_changes_nothing_of_the_model():
    assert "--json-model-override-args" not in flags(config_of())


def test_deterministic_and_memory_saver_are_asked_for(qwen3_14b):
    model = f"--model.path={qwen3_14b}"
    colocated = ("--server.placement=colocated", "--server.memory-saver", "--server.trainer-memory-fraction=0.7")
    both = flags(config_of(GRPO_14B, model, "--server.deterministic", "--rollout.max-staleness=0", *colocated))
    neither = flags(config_of(GRPO_14B, model))
    asked = {"--enable-deterministic-inference", "--enable-memory-saver", "--enable-weights-cpu-backup"}
    assert asked <= both.keys() and not asked & neither.keys()
    assert "--attention-backend" not in both  # SGLang takes one that is deterministic on the GPU it finds


def test_sglang_is_not_deterministic_on_the_cpu():
    with pytest.raises(UserError, match=r"server.deterministic is on with server.device cpu"):
        command(config_of("configs/tiny.py", "--server.deterministic"), 0)


READ = """
import json, sys
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.server_args import prepare_server_args
args = prepare_server_args(sys.argv[1:])
model = ModelConfig(args.model_path, context_length=args.context_length,
                    model_override_args=args.json_model_override_args)
print(json.dumps([model.context_len, model.hf_config.rope_parameters]))
"""


@pytest.mark.slow
@needs_sglang
def test_sglang_reads_every_flag_of_the_14b_config(qwen3_14b):
    sizes = {"hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128}
    sizes |= {"num_hidden_layers": 40, "intermediate_size": 17408, "vocab_size": 151936, "rope_theta": 1000000}
    (qwen3_14b / "config.json").write_text(json.dumps(QWEN3_14B | sizes))
    changes = ("--server.placement=colocated", "--server.memory-saver", "--server.trainer-memory-fraction=0.7")
    config = long_14b(qwen3_14b, "--server.deterministic", "--rollout.max-staleness=0", *changes)
    variables = os.environ | {"PYTHONPATH": str(STUBS), "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
    read = subprocess.run(
        [PYTHON, "-c", READ, *command(config, 0)[3:]], capture_output=True, text=True, env=variables, timeout=240
    )
    assert read.returncode == 0, read.stderr[-2000:]
    context, rope = json.loads(read.stdout.splitlines()[-1])
    assert context == 81922
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == ("yarn", 1e6, 2.5)


# ---- where it runs


def test_each_server_on_gpus_sees_its_own():
    config = config_of(GRPO_14B, "--server.num-servers=2", "--server.tensor=2")
    gpus = server_gpus(config, present=list("01234567"), beside_trainer=False)
    seen = [environment(config, index, gpus=gpus)["CUDA_VISIBLE_DEVICES"] for index in (0, 1)]
    assert seen == ["0,1", "2,3"]


def test_servers_beside_the_trainer_come_after_its_gpus():
    split = ("--mesh.data=1", "--mesh.fsdp=4", "--mesh.num-processes=1", "--experience.rows-per-micro-batch=4")
    config = config_of(GRPO_14B, *split, "--server.num-servers=4")
    assert server_gpus(config, present=list("01234567"), beside_trainer=True) == list("4567")


def test_colocated_servers_share_the_trainers_gpus():
    colocated = ("--server.placement=colocated", "--server.trainer-memory-fraction=0.5", "--rollout.max-staleness=0")
    config = config_of(GRPO_14B, *colocated, "--server.memory-fraction=0.4")
    assert server_gpus(config, present=list("01234567"), beside_trainer=True) == list("01234567")


@pytest.mark.parametrize(
    ("overrides", "gpus", "fraction"),
    [
        (("--server.num-servers=4", "--rollout.urls"), "0,1,2,3", None),
        (
            ("--server.placement=colocated", "--server.trainer-memory-fraction=0.5", "--server.memory-fraction=0.4",
             "--rollout.max-staleness=0"),
            None, "0.5",
        ),
    ],
    ids=["split", "colocated"],
)  # fmt: skip
def test_the_trainer_leaves_servers_of_this_machine_what_is_theirs(monkeypatch, overrides, gpus, fraction):
    """GPUs of their own, or a share of the memory of the same ones."""
    found = {}
    monkeypatch.setattr("jax.config.update", lambda name, value: found.update({name: value}))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    mesh = ("--mesh.data=1", "--mesh.fsdp=4", "--mesh.num-processes=1", "--experience.rows-per-micro-batch=4")
    share_gpus(config_of(GRPO_14B, *mesh, *overrides))
    assert found == ({"jax_cuda_visible_devices": gpus} if gpus else {})
    assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == fraction


def test_too_few_gpus_are_said_with_what_is_needed():
    with pytest.raises(UserError, match="need 8 GPUs after the trainer's 8; found 8"):
        server_gpus(config_of(GRPO_14B), present=list("01234567"), beside_trainer=True)


def test_a_server_on_the_cpu_computes_with_one_thread():
    found = environment(config_of(), 0, gpus=[])
    assert (found["SGLANG_USE_CPU_ENGINE"], found["OMP_NUM_THREADS"]) == ("1", "1")


def test_a_printed_line_is_the_command_as_a_shell_reads_it(qwen3_14b):
    config = long_14b(qwen3_14b, "--server.num-servers=2")
    lines = command_lines(config)
    words = shlex.split(lines[1])
    assert len(lines) == 2 and words[-len(command(config, 1)) :] == command(config, 1)
    assert "CUDA_VISIBLE_DEVICES=1" in words


# ---- what is refused


def test_a_model_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"model.path /none/such does not exist"):
        command(config_of("configs/tiny.py", "--model.path=/none/such"), 0)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no config.json"):
        command(config_of("configs/tiny.py", f"--model.path={tmp_path}"), 0)


def test_a_context_that_the_model_does_not_know_is_refused():
    with pytest.raises(UserError, match=r"is 5248 tokens .* the model knows 4096 positions"):
        command(config_of("configs/tiny.py", "--evaluation.max-completion-tokens=3072"), 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refused(tmp_path, *overrides) -> str:
    servers = Servers(config_of("configs/tiny.py", *overrides), log_dir=tmp_path, say=print, beside_trainer=False)
    with pytest.raises(UserError) as error:
        servers.start()
    return str(error.value)


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(tmp_path, "--server.num-servers=2", f"--server.port={port - 1}")
    assert f"port {port} (Address already in use)" in message and "--server.port" in message


def test_a_python_without_sglang_is_named_with_the_fix(tmp_path):
    message = refused(tmp_path, f"--server.port={free_port()}")
    assert f"{sys.executable} has no SGLang" in message and "make sglang" in message and "\n" not in message


def test_a_python_that_is_not_there_is_named_with_the_fix(tmp_path):
    message = refused(tmp_path, f"--server.port={free_port()}", "--server.python=/none/python")
    assert "server.python /none/python cannot be run" in message and "--server.python" in message


def test_the_reason_is_the_last_error_of_the_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("  File x\nRuntimeError: no weights\n\n[2026-11-28 13:46:17] Received sigquit from a child\n")
    server = ServerProcess(url="", arguments=[], variables={}, log=log)
    assert server.reason() == "RuntimeError: no weights" and server.stage() == "Received sigquit from a child"


# ---- the keeper


def start_kept(script: str, *, grace_s: float = 5.0) -> subprocess.Popen:
    arguments = [sys.executable, "-I", keeper.__file__, str(os.getpid()), str(grace_s), "sh", "-c", script]
    return subprocess.Popen(arguments, start_new_session=True)


def pids_in(file: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.exists() and len(pids := file.read_text().split()) == count:
            return [int(pid) for pid in pids]
        time.sleep(0.02)
    raise AssertionError(f"{file} never held {count} process numbers")


def none_lives(pids: list[int], *, within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


FAMILY = "echo $$ >> {0}; setsid sh -c 'echo $$ >> {0}; exec sleep 600' & sh -c 'echo $$ >> {0}; exec sleep 600' & "


def test_the_keeper_hands_on_the_exit_code():
    assert start_kept("exit 7").wait(120) == 7
    assert start_kept("kill -9 $$").wait(120) == 128 + 9


def test_what_a_dead_server_left_is_killed(tmp_path):
    kept = start_kept(FAMILY.format(tmp_path / "pids") + "wait")
    pids = pids_in(tmp_path / "pids", 3)
    os.kill(pids[0], signal.SIGKILL)
    assert kept.wait(120) == 128 + 9 and none_lives(pids)


def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path):
    kept = start_kept("trap '' TERM; " + FAMILY.format(tmp_path / "pids") + "while :; do sleep 1; done", grace_s=0.3)
    pids = pids_in(tmp_path / "pids", 3)
    kept.terminate()
    assert kept.wait(120) == 128 + 9 and none_lives(pids)


ANSWERS = """import http.server, os, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
with pathlib.Path(sys.argv[1]).open("a") as pids:
    print(os.getpid(), file=pids)
server.serve_forever()
"""


def test_a_server_that_dies_three_times_is_given_up(tmp_path):
    """What dies is not SGLang, but answers like it that it is there."""
    pids, python = tmp_path / "pids", tmp_path / "python"
    (tmp_path / "answers.py").write_text(ANSWERS)
    python.write_text(f"""#!/bin/sh
case "$1" in -c) echo 0.5.23;; *) exec {sys.executable} {tmp_path}/answers.py {pids} "$@";; esac
""")
    python.chmod(0o755)
    config = config_of("configs/tiny.py", f"--server.python={python}", f"--server.port={free_port()}")
    lines: list[str] = []
    servers = Servers(config, log_dir=tmp_path, say=lines.append, beside_trainer=True)
    servers.start()
    try:
        for death in (1, 2, 3):
            assert servers.failure == ""
            os.kill(pids_in(pids, death)[-1], signal.SIGKILL)
        deadline = time.monotonic() + 120
        while not servers.failure:
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)
    finally:
        servers.stop()
    assert "ended 3 times within 10 minutes" in servers.failure and "\n" not in servers.failure
    assert sum("starting it again" in line for line in lines) == 2
    assert sum("was ended by SIGKILL" in line for line in lines) == 3
    assert none_lives(pids_in(pids, 3))


def test_nothing_is_left_when_the_starter_is_killed(tmp_path):
    script = FAMILY.format(tmp_path / "pids") + "wait"
    start = (
        "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-I', "
        f"{keeper.__file__!r}, str(os.getpid()), '5', 'sh', '-c', {script!r}], start_new_session=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", start])
    pids = pids_in(tmp_path / "pids", 3)
    starter.kill()
    starter.wait()
    assert none_lives(pids)
