# ruff: noqa: E501  (programs read better on one line)
"""Expected outputs are nowhere in a sandbox: random texts in them are searched for from inside and from outside.

Each search is also shown a text that is there, in the input, and has to find it.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket

import pytest
from judge_rig import make_problem

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.verify import verify

SHAPE = re.compile(rb"can4ry-[0-9a-f]{32}")
MOST_BYTES = 1 << 28


def canary():
    return f"can4ry-{secrets.token_hex(16)}"


# -- from inside ----------------------------------------------------------------------------------------------------

SEARCH = """
import gc, json, os, re, sys
text = sys.stdin.read() if readers else ''
shape = re.compile(b'can4' + b'ry-[0-9a-f]{32}')
found = {}
def look(where, data):
    if isinstance(data, str): data = data.encode('utf-8', 'surrogatepass')
    hits = set(shape.findall(data))
    if hits: found.setdefault(where, set()).update(hits)
def read(path):
    with open(path, 'rb', 0) as file: return file.read(1 << 22)
def memory():
    for line in open('/proc/self/maps'):
        span, mode = line.split()[:2]
        low, high = (int(x, 16) for x in span.split('-'))
        if 'r' not in mode or high - low > 1 << 28: continue
        try:
            with open('/proc/self/mem', 'rb', 0) as file:
                file.seek(low)
                look('memory', file.read(high - low))
        except (OSError, ValueError, OverflowError): continue
def files():
    for top in ('/tmp', '/dev/shm', '/etc', '/run', '/var', '/root', '/home'):
        for root, _, names in os.walk(top):
            for name in names:
                look('names', name)
                try: look('files', read(os.path.join(root, name)))
                except OSError: continue
    for pid in [p for p in os.listdir('/proc') if p.isdigit()]:
        for name in ('cmdline', 'environ', 'status', 'comm'):
            try: look('proc', read(f'/proc/{pid}/{name}'))
            except OSError: continue
def objects():
    queue, seen = gc.get_objects(), set()
    frame = sys._getframe()
    while frame:
        queue += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    while queue and len(seen) < 300000:
        value = queue.pop()
        if id(value) in seen: continue
        seen.add(id(value))
        if type(value) in (str, bytes, bytearray): look('objects', value)
        else: queue += gc.get_referents(value)
look('environment', str(dict(os.environ)) + str(sys.argv) + str(sys.orig_argv))
look('stdin', text)
for fd in range(3, 256):
    try: look('descriptors', os.pread(fd, 1 << 20, 0))
    except OSError: continue
files()
objects()
memory()
if readers: print(json.dumps({k: [h.decode() for h in sorted(v)] for k, v in found.items()}))
"""
FUNCTION = (
    SEARCH
    + "\ndef f(text):\n    memory()\n    objects()\n    return {k: [h.decode() for h in sorted(v)] for k, v in found.items()}\n"
)


def said(rig, program, problem):
    """What the program returned on each test, by way of the judge: through a session that is watched."""
    outputs = []
    sandbox = rig.sandbox

    class Watched:
        """The rig's sandbox, with its outputs written down."""

        name = sandbox.name

        def session(self, program, *, fn_name, limits):
            return _Session(sandbox.session(program, fn_name=fn_name, limits=limits), outputs)

        async def probe(self):
            await sandbox.probe()

        async def close(self):
            pass

    verdict = rig.run(verify(problem, program, sandbox=Watched(), config=rig.config, stop_at_first_failure=False))
    return verdict, outputs


class _Session:
    def __init__(self, context, outputs):
        self.context, self.outputs = context, outputs

    async def __aenter__(self):
        session = await self.context.__aenter__()
        run = session.run

        async def noted(stdin):
            execution = await run(stdin)
            self.outputs.append(json.loads(execution.stdout or b"null"))
            return execution

        session.run = noted
        self.session = session
        return session

    async def __aexit__(self, *error):
        del self.session.run
        return await self.context.__aexit__(*error)


def test_a_program_finds_no_expected_output_anywhere(rig):
    tests = [(f"{number}\n", canary() + "\n") for number in range(3)]
    problem = make_problem(tests, time_limit_s=20.0)
    verdict, found = said(rig, "readers = True\n" + SEARCH, problem)
    assert verdict.outcome is Outcome.WRONG_ANSWER
    assert found == [{}, {}, {}], verdict


def test_a_function_finds_no_expected_output_anywhere(rig):
    tests = [(json.dumps([str(number)]), json.dumps(canary())) for number in range(3)]
    problem = make_problem(tests, fn_name="f", kind="exact", time_limit_s=20.0)
    verdict, found = said(rig, "readers = False\n" + FUNCTION, problem)
    assert verdict.outcome is Outcome.WRONG_ANSWER
    assert found == [{}, {}, {}], verdict


def test_a_program_finds_what_is_in_its_input(rig):
    token = canary()
    _, (found,) = said(rig, "readers = True\n" + SEARCH, make_problem([(token, "x")], time_limit_s=20.0))
    assert {"stdin", "memory", "objects"} <= set(found)
    assert {hit for hits in found.values() for hit in hits} == {token}


def test_a_function_finds_what_is_in_its_input(rig):
    token = canary()
    problem = make_problem([(json.dumps([token]), '"x"')], fn_name="f", kind="exact", time_limit_s=20.0)
    _, (found,) = said(rig, "readers = False\n" + FUNCTION, problem)
    assert "memory" in found
    assert {hit for hits in found.values() for hit in hits} == {token}


def test_a_program_finds_no_input_of_the_test_before(rig):
    first, second = sorted((canary(), canary()))
    _, found = said(rig, "readers = True\n" + SEARCH, make_problem([(first, "x"), (second, "x")], time_limit_s=20.0))
    assert [{hit for hits in each.values() for hit in hits} for each in found] == [{first}, {second}]


@pytest.mark.parametrize("copies", [1, 10, 100, 2000])
def test_a_program_finds_nothing_of_the_program_before_in_the_same_sandbox(rig, copies):
    """A rollout of the same problem may have run there: its text and what it printed are as good as the answers."""
    source, given, printed = canary(), canary(), canary()
    program = f"input()\nx = '{source} '\n" * copies + f"print(('{printed[::-1]} ' * {copies})[::-1])"
    problem = make_problem([((given + "\n") * copies, "x")])
    rig.run(verify(problem, program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=False))
    _, (found,) = said(rig, "readers = True\n" + SEARCH, make_problem([("1", "x")], time_limit_s=20.0))
    assert found == {}, {"source": source, "input": given, "output": printed}


# -- from outside ---------------------------------------------------------------------------------------------------

WAIT = "import os, sys, time\ntext = sys.stdin.read()\nopen('/tmp/there', 'w').write(text)\n"
WAIT += "while os.path.exists('/tmp/there'): time.sleep(0.05)\nprint('none')"


def processes(rig):
    """Every process in a place of the rig, as the host sees it: those in another pid namespace that end on ours."""
    if os.geteuid() != 0:
        pytest.skip("looking into the memory of other processes needs root")
    own = os.readlink("/proc/self/ns/pid")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            inside = os.readlink(f"/proc/{name}/ns/pid") != own
            python = b"python" in _read(f"/proc/{name}/cmdline")
        except OSError:
            continue
        if inside and python:
            found.append(int(name))
    if rig.backend == "docker" and not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        pytest.skip("the Docker host runs on another machine: its processes are out of sight")
    return found


def _read(path):
    with open(path, "rb", 0) as file:
        return file.read(MOST_BYTES)


def search(pids):
    """Tokens of the canary's shape in these processes and in the folders that they may write, and where."""
    found = {}

    def look(where, data):
        for hit in SHAPE.findall(data):
            found.setdefault(hit.decode(), set()).add(where)

    for pid in pids:
        for name in ("environ", "cmdline", "comm", "status", "mountinfo"):
            try:
                look(name, _read(f"/proc/{pid}/{name}"))
            except OSError:
                continue
        for region in _memory(pid):
            look("memory", region)
        for number in _listed(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            try:
                if os.path.isfile(path):
                    look("descriptors", _read(path))
            except OSError:
                continue
        for folder in ("tmp", "dev/shm", "etc", "run"):
            for root, _, names in os.walk(f"/proc/{pid}/root/{folder}"):
                for name in names:
                    look("names", name.encode("utf-8", "surrogateescape"))
                    path = os.path.join(root, name)
                    if os.path.isfile(path) and not os.path.islink(path):
                        look("files", _read(path))
    return found


def _listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


def _memory(pid):
    try:
        with open(f"/proc/{pid}/maps") as file:
            lines = file.readlines()
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in lines:
                span, mode = line.split()[:2]
                low, high = (int(number, 16) for number in span.split("-"))
                if "r" not in mode or high - low > MOST_BYTES:
                    continue
                try:
                    memory.seek(low)
                    yield memory.read(high - low)
                except (OSError, ValueError, OverflowError):
                    continue
    except OSError:
        return


def searched_while_it_runs(rig, expected, given):
    """What is found from outside while the second test runs, the first one having been judged."""
    before = set(processes(rig))
    tests = [("first " * 20, expected[0]), (given, expected[1])]
    program = WAIT.replace("text = sys.stdin.read()", "text = sys.stdin.read()\nif 'first' in text: sys.exit()")
    problem = make_problem(tests, time_limit_s=20.0)

    async def run():
        judged = asyncio.ensure_future(
            verify(problem, program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=False)
        )
        for _ in range(100):
            await asyncio.sleep(0.1)
            running = set(processes(rig)) - before | before
            if any(_is_waiting(pid) for pid in running):
                break
        assert running, "no process of a sandbox is in sight"
        found = await asyncio.get_running_loop().run_in_executor(None, search, sorted(running))
        waiting = [pid for pid in running if _is_waiting(pid)]
        assert waiting, "the program ended before it was searched"
        os.unlink(f"/proc/{waiting[0]}/root/tmp/there")  # now it ends
        return found, await judged

    return rig.run(run())


def _is_waiting(pid):
    """Whether the program of this test is there: it has written its file."""
    return os.path.exists(f"/proc/{pid}/root/tmp/there")


def test_no_expected_output_is_found_from_outside_and_the_input_is(rig):
    expected, given = (canary(), canary()), canary()
    found, verdict = searched_while_it_runs(rig, expected, given)
    assert verdict.outcome is Outcome.WRONG_ANSWER and verdict.tests_total == 2
    assert {"memory", "files", "descriptors"} <= found[given]
    assert not set(expected) & set(found)


@pytest.mark.parametrize("rig", ["docker"], indirect=True)
def test_no_expected_output_is_in_what_the_docker_host_knows_of_its_containers(rig):
    import docker

    expected = canary()
    problem = make_problem([("1\n", expected), ("2\n", expected)], time_limit_s=5.0)
    program = "import time\ntime.sleep(1)\nprint(1)"

    async def run():
        judged = asyncio.ensure_future(
            verify(problem, program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=False)
        )
        await asyncio.sleep(0.5)
        told = await asyncio.get_running_loop().run_in_executor(None, everything)
        await judged
        return told

    def everything():
        api = docker.from_env().api
        told = []
        for container in api.containers(all=True):
            with contextlib.suppress(docker.errors.APIError):  # a spare that has just ended
                inspected = api.inspect_container(container["Id"])
                told.append(json.dumps([container, inspected, api.top(container["Id"]), api.diff(container["Id"])]))
        return told

    told = rig.run(run())
    assert told, "the Docker host has no container"
    assert not any(SHAPE.search(text.encode()) for text in told)
    assert any(socket.gethostname() in text for text in told), "the search reads nothing"
