# ruff: noqa: E501  (programs read better on one line)
"""The local sandbox as each system permits it: run by an ordinary user, and where no namespaces may be made at all.

This file, as a program, gives up root (or the right to make namespaces), judges, and prints its verdicts.
"""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge_rig import make_config, make_problem

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier import bundle, interpreter
from nouscoder_jax.verifier.inside import seccomp
from nouscoder_jax.verifier.local import LocalSandbox
from nouscoder_jax.verifier.verify import limits_of, verify

UID = 150_000
RIGHT = "print(sum(map(int, input().split())))"
PROGRAMS = {
    "right": (RIGHT, Outcome.ACCEPTED),
    "wrong": ("print(6)", Outcome.WRONG_ANSWER),
    "raises": (RIGHT + "\nraise ValueError", Outcome.RUNTIME_ERROR),
    "segfault": ("import os\nos.abort()", Outcome.RUNTIME_ERROR),
    "endless": ("while True: pass", Outcome.TIME_LIMIT),
    "endless_children": ("import os\nfor _ in range(2): os.fork()\nwhile True: pass", Outcome.TIME_LIMIT),
    "sleeps": ("import time\ntime.sleep(60)", Outcome.TIME_LIMIT),
    "memory": ("x = []\nwhile True: x.append(bytearray(1 << 24))", Outcome.MEMORY_LIMIT),
    "output": ("while True: print('x' * 1000)", Outcome.OUTPUT_LIMIT),
    "thread": ("import threading\nthreading.Thread(target=lambda: " + RIGHT + ").start()", Outcome.ACCEPTED),
    "pool": (
        "from multiprocessing import Pool\nif __name__ == '__main__':\n    with Pool(2) as p:\n"
        "        print(sum(p.map(int, input().split())))",
        Outcome.ACCEPTED,
    ),
    "daemon": (RIGHT + "\nimport os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)", Outcome.ACCEPTED),
    "leaves_a_file": (
        "import os\nprint(sum(map(int, input().split())) if not os.path.exists('left') else 0)\nopen('left', 'w').close()",
        Outcome.ACCEPTED,
    ),
    "kills_everything": (
        "import os\nfor pid in (-1, 1, os.getppid()):\n    try: os.kill(pid, 9)\n    except OSError: pass\n",
        Outcome.WRONG_ANSWER,
    ),
    "uses_the_network": (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 22), 1)\n    print(0)\n"
        "except OSError:\n    " + RIGHT,
        Outcome.ACCEPTED,
    ),
    "traces": (
        "import ctypes\nprint(0 if ctypes.CDLL(None).syscall(101, 16, 1, 0, 0) == 0 else sum(map(int, input().split())))",
        Outcome.ACCEPTED,
    ),
}


REPORT = """
import json, os
judge, test_file = input().split()
def opens(path, flags=os.O_RDONLY):
    try: os.close(os.open(path, flags, 0o600))
    except OSError: return False
    return True
files = [p for p in (test_file, '/etc/passwd', '/etc/shadow', '/root/.bashrc', '/proc/1/environ') if opens(p)]
try: memory = [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid() and opens(f'/proc/{p}/mem')]
except OSError: memory = []
memory += [p for p in (judge, '1', str(os.getppid())) if opens(f'/proc/{p}/mem')]
made = [p for p in ('/x', '/etc/x', '/usr/x', '/var/tmp/x', os.path.dirname(os.getcwd()).rstrip('/') + '/x') if opens(p, os.O_CREAT | os.O_WRONLY)]
print(json.dumps({'files': files, 'memory': memory, 'made': made, 'secret': 'secret' in str(dict(os.environ))}))
"""


def in_a_process(rights):
    """What `judge_all(**rights)` returns, from a process of its own: it gives up rights for good."""
    here = Path(__file__)
    path = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here.parent)))
    done = subprocess.run(
        [sys.executable, here, json.dumps(rights)], capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def judge_all(*, root, namespaces):
    """The sandbox's isolation, its name, and the outcome of every program."""
    os.environ["NOUSCODER_SECRET"] = "secret"
    bundle.bundle(compiled=interpreter.choose().same_bytecode)  # read while this Python's files may still be read
    if not root and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    if not namespaces:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)
        seccomp.install(libc, seccomp.build(may_signal=True, has_network_namespace=True))  # denies unshare

    async def run():
        sandbox = LocalSandbox(reuse=4)
        config = make_config("local", memory_limit_mib=256)
        outcomes = {}
        try:
            for name, (program, _) in PROGRAMS.items():
                slow = name in ("memory", "output", "pool")
                problem = make_problem([("2 3\n", "5\n"), ("1 4\n", "5\n")], time_limit_s=10.0 if slow else 0.6)
                verdict = await verify(problem, program, sandbox=sandbox, config=config, stop_at_first_failure=True)
                outcomes[name] = [verdict.outcome.value, verdict.detail]
            limits = limits_of(make_problem([("", "")], time_limit_s=5.0), config)
            async with sandbox.session(REPORT, fn_name=None, limits=limits) as session:
                report = (await session.run(f"{os.getpid()} {os.path.abspath(__file__)}\n")).stdout.decode()
        finally:
            await sandbox.close()
        return {"isolation": sandbox.isolation, "name": sandbox.name, "outcomes": outcomes, "report": report}

    try:
        return asyncio.run(run())
    except UserError as error:
        return {"isolation": str(error), "name": "", "outcomes": {}}


RIGHTS_OF = {
    "an ordinary user": dict(root=False, namespaces=True),
    "an ordinary user without namespaces": dict(root=False, namespaces=False),
    "root without namespaces": dict(root=True, namespaces=False),
}


@pytest.fixture(scope="module", params=RIGHTS_OF)
def judged(request):
    rights = RIGHTS_OF[request.param]
    if rights["root"] and os.geteuid() != 0:
        pytest.skip("not root")
    answer = in_a_process(rights)
    if rights["namespaces"] and answer["isolation"] != "user":
        pytest.skip("this system lets no ordinary user make namespaces")
    if not rights["namespaces"] and answer["isolation"] == "nothing":
        pytest.skip("this kernel has no Landlock")
    assert answer["isolation"] == ("user" if rights["namespaces"] else "landlock"), answer
    return answer


@pytest.mark.parametrize("program", PROGRAMS)
def test_weaker_isolation_gives_the_same_verdicts(judged, program):
    outcome, detail = judged["outcomes"][program]
    assert outcome == PROGRAMS[program][1].value, detail


def test_the_name_says_how_weak_it_is(judged):
    assert "weaker than docker" in judged["name"]
    assert ("no namespaces" in judged["name"]) == (judged["isolation"] == "landlock")


def test_the_judge_and_the_hosts_files_are_out_of_reach(judged):
    """What a program reports: host files it could open, processes whose memory it could open, files it could make."""
    seen = json.loads(judged["report"])
    assert seen == {"files": [], "memory": [], "made": [], "secret": False}


if __name__ == "__main__":
    print(json.dumps(judge_all(**json.loads(sys.argv[1]))))
