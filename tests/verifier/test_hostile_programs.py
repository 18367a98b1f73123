# ruff: noqa: E501  (programs read better on one line)
"""Wrong and hostile programs must not be accepted, must end within their limits, and must leave nothing behind."""

import json

import pytest
from judge_bench import make_problem

from nouscoder_jax.types import ExecutionStatus, Outcome
from nouscoder_jax.verifier.sandbox import Limits
from nouscoder_jax.verifier.verify import verify

WA, RE, TLE, MLE, OLE = (
    Outcome.WRONG_ANSWER,
    Outcome.RUNTIME_ERROR,
    Outcome.TIME_LIMIT,
    Outcome.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT,
)
RIGHT = "print(sum(map(int, input().split())), flush=True)\n"
PROGRAMS = {
    "wrong": ("print(6)", WA),
    "nothing": ("", WA),
    "raises_after_the_right_output": (RIGHT + "raise ValueError", RE),
    "killed_after_the_right_output": (RIGHT + "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", RE),
    "syntax_error": ("print(", RE),
    "null_byte": ("print(5)\0", RE),
    "surrogate": ("print('\ud800')", RE),
    "endless": ("while True: pass", TLE),
    "endless_ignoring_signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True: pass",
        TLE,
    ),
    "sleeps": ("import time\ntime.sleep(100)", TLE),
    "endless_children": ("import os\nfor _ in range(3): os.fork()\nwhile True: pass", TLE),
    "endless_thread": ("import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\n" + RIGHT, TLE),
    "endless_regex": ("import re\nre.match('(a+)+$', 'a' * 40 + 'b')", TLE),
    "stops_itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", TLE),
    "memory": ("x = []\nwhile True: x.append(bytearray(1 << 24))", MLE),
    "memory_at_once": ("x = [0] * 10**12", MLE),
    "memory_of_children": ("import os, time\nx = None\nfor _ in range(4):\n    if os.fork() == 0:\n        x = b'x' * (200 << 20)\n"
                           "        break\ntime.sleep(50)", MLE),
    "output": ("while True: print('x' * 1000)", OLE),
    "output_in_a_child": ("import os\nos.fork()\nwhile True: os.write(1, b'x' * 65536)", OLE),
    "errors_output": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", OLE),
    "deep_recursion": ("def f(): return f()\nf()", RE),
    "kills_everything": ("import os\nfor pid in (-1, 1, os.getppid()):\n    try: os.kill(pid, 9)\n    except OSError: pass", WA),
    "forges_an_accept": (RIGHT.replace("sum", "max") + "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'status=exited\\n' * 99)\n"
                         "    except OSError: pass", WA),
    "forges_a_judge_error": ("import os\nprint('judge_error=boom')\nos._exit(115)", WA),
    "equal_to_everything": ("class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\nprint(E('x'))", WA),
    "closes_its_output": ("import os\nos.close(1)\nos._exit(0)", WA),
    "output_of_a_late_child": ("import os, time\nif os.fork() == 0:\n    time.sleep(0.3)\n    print(sum(map(int, input().split())))", WA),
    "unicode_digits": ("print('５')", WA),
    "fork_bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", TLE),
    "thread_bomb": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", RE),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_or_hostile_program_gets_its_outcome(bench, name):
    program, outcome = PROGRAMS[name]
    slow = outcome in (MLE, OLE, RE)  # those end by themselves, but filling memory takes CPU time
    problem = make_problem([("2 3\n", "5\n")], time_limit_s=10.0 if slow else 0.5)
    verdict = bench.run(
        verify(problem, program, sandbox=bench.sandbox, config=bench.config, stop_at_first_failure=True)
    )
    assert verdict.outcome is outcome, verdict


FUNCTIONS = {
    "equal_to_everything": "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "a_set": "def f(x): return {x}",
    "nothing_returned": "def f(x): pass",
    "missing": "def g(x): return x",
    "leaves_before": "def f(x): raise SystemExit(0)",
    "cyclic": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "prints_the_answer": "def f(x): print('[2]')",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_function_is_not_accepted(bench, name):
    problem = make_problem([("[2]", "[2]")], fn_name="f", kind="exact")
    verdict = bench.run(
        verify(problem, FUNCTIONS[name], sandbox=bench.sandbox, config=bench.config, stop_at_first_failure=True)
    )
    assert verdict.outcome in (WA, RE), verdict


# -- escapes: what the program itself reports -----------------------------------------------------------------------


def report(bench, program, *inputs):
    """What the program prints as JSON on each input, all in one sandbox."""
    limits = Limits(cpu_s=5.0, wall_s=15.0, memory_mib=512, output_mib=1, max_processes=48)

    async def run():
        async with bench.sandbox.session(program, fn_name=None, limits=limits) as session:
            return [await session.run(text) for text in inputs or [""]]

    executions = bench.run(run())
    assert all(execution.status is ExecutionStatus.EXITED for execution in executions), executions
    found = [json.loads(execution.stdout) for execution in executions]
    return found if inputs else found[0]


TRY = """
import json, os
def attempt(f):
    try: f()
    except BaseException as e: return type(e).__name__
    return "done"
"""


def test_no_network_can_be_reached(bench):
    program = TRY + "import socket\n" + (
        "print(json.dumps([attempt(lambda: socket.create_connection(('127.0.0.1', 22), 1)),"
        "attempt(lambda: socket.create_connection(('10.0.0.1', 80), 1)),"
        "attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),"
        "[l.split(':')[0].strip() for l in open('/proc/net/dev') if ':' in l]]))"
    )  # fmt: skip
    local, remote, vsock, interfaces = report(bench, program)
    assert "done" not in (local, remote, vsock)
    assert set(interfaces) <= {"lo", "sit0", "tunl0", "ip6tnl0"}


def test_forbidden_system_calls_fail(bench):
    program = TRY + (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        "calls = {'ptrace': (101, 0, 0, 0, 0), 'keyctl': (250, 0, 0), 'io_uring': (425, 1, 0), 'unshare': (272, 0x10000000),"
        "'mount': (165, 0, 0, 0, 0, 0), 'bpf': (321, 0, 0, 0), 'shmget': (29, 0, 4096, 512)}\n"
        "print(json.dumps({k: (c.syscall(*v), ctypes.get_errno()) for k, v in calls.items()}))"
    )
    assert set(map(tuple, report(bench, program).values())) == {(-1, 1)}


def test_the_runner_and_other_processes_are_closed(bench):
    program = TRY + (
        "print(json.dumps({'mem': attempt(lambda: open('/proc/1/mem', 'rb').read(1)),"
        "'fd': attempt(lambda: os.listdir('/proc/1/fd')), 'environ': attempt(lambda: open('/proc/1/environ').read()),"
        "'pids': sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()),"
        "'fds': sorted(map(int, os.listdir('/proc/self/fd')))[:-1], 'uid': os.getuid(),"
        "'caps': [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm'))]}))"
    )
    seen = report(bench, program)
    assert seen["mem"] == seen["fd"] == seen["environ"] == "PermissionError"
    assert seen["pids"] == [1]
    assert seen["fds"] == [0, 1, 2]
    assert seen["uid"] >= 10001 or bench.backend == "local"
    assert all(int(cap, 16) == 0 for cap in seen["caps"])


def test_host_files_and_secrets_are_out_of_sight(bench, tmp_path, monkeypatch):
    secret = tmp_path / "expected.txt"
    secret.write_text("secret")
    secret.chmod(0o644)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    monkeypatch.setenv("NOUSCODER_SECRET", "secret")
    program = TRY + (
        f"print(json.dumps([attempt(lambda: open({str(secret)!r}).read()), 'secret' in str(dict(os.environ)),"
        "sorted(os.listdir('/')), attempt(lambda: open('/etc/x', 'w')), attempt(lambda: open('/x', 'w')),"
        "os.path.exists('/root/.ssh'), os.path.exists('/var'), os.path.exists('/home')]))"
    )
    opened, leaked, _, etc, root, *folders = report(bench, program)
    assert opened == "FileNotFoundError" and not leaked
    assert "done" not in (etc, root)
    assert not any(folders)


CANARY = "c4n4ry-7391-expected"


def test_expected_outputs_are_nowhere_in_the_sandbox(bench):
    parts = (CANARY[:8], CANARY[8:])
    program = f"""
import gc, os, sys
needle = ({parts[0]!r} + {parts[1]!r}).encode()
found = []
for line in open('/proc/self/maps'):
    span, mode = line.split()[:2]
    if 'r' not in mode or 'vvar' in line or 'vsyscall' in line: continue
    low, high = (int(x, 16) for x in span.split('-'))
    with open('/proc/self/mem', 'rb', 0) as memory:
        try:
            memory.seek(low)
            data = memory.read(high - low)
        except (OSError, ValueError, OverflowError): continue
    at = data.find(needle)  # the needle itself is in memory, but never followed by the tail
    while at >= 0:
        end = at + len(needle)
        if data[end:end + 1] == b'-' and data[end + 1:end + 5] == b'tail': found.append(line)
        at = data.find(needle, end)
for root, _, names in os.walk('/tmp'):
    for name in names:
        if b'expected-' + b'tail' in open(os.path.join(root, name), 'rb').read(): found.append(name)
if 'expected-' + 'tail' in str(dict(os.environ)) + sys.stdin.read(): found.append('environment')
print(len(found))
"""
    problem = make_problem([("in", CANARY + "-tail")], time_limit_s=10.0)
    verdict = bench.run(
        verify(problem, program, sandbox=bench.sandbox, config=bench.config, stop_at_first_failure=True)
    )
    assert verdict.outcome is WA
    assert "got '0'" in verdict.detail, verdict


def test_nothing_survives_into_the_next_test(bench):
    program = """
import json, os, time
before = [sorted(os.listdir('/tmp')), sorted(os.listdir('/dev/shm')), [p for p in os.listdir('/proc') if p.isdigit()]]
os.makedirs('/tmp/' + 'd/' * 200)
open('/tmp/state', 'w').write('x' * 100000)
open('/dev/shm/state', 'w').write('x')
os.symlink('/etc', '/tmp/link')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(100)
    os._exit(0)
import sys; sys.stdout.write(json.dumps([before[0], before[1], len(before[2])]))
"""
    first, second, third = report(bench, program, "1", "2", "3")
    assert first == second == third == [["program.py"], [], 2]


def test_a_full_tmp_does_not_reach_the_next_test(bench):
    program = """
import json, os
space = os.statvfs('/tmp')
free = (space.f_bavail * space.f_bsize >> 20, space.f_favail)
try:
    for i in range(10000): open(f'/tmp/{i}', 'w').close()
except OSError: pass
try:
    for i in range(200):
        with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * 1000000)
except OSError: pass
print(json.dumps(free))
"""
    first, second = report(bench, program, "1", "2")
    assert abs(first[0] - second[0]) <= 1 and abs(first[1] - second[1]) <= 8
    assert 50 <= first[0] <= 64
