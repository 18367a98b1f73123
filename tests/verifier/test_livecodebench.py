"""What the public harness of LiveCodeBench accepts and refuses, bug for bug, beside the real process of `verify`."""

import pytest
from judge_rig import make_problem

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.livecodebench import verify_published
from nouscoder_jax.verifier.verify import verify

AC, WA, RE, TLE = Outcome.ACCEPTED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.TIME_LIMIT
SUM = (("2\n1 2\n", "3\n"), ("3\n5 6 7\n", "18\n"))
BODY = "n = int(input())\nprint(sum(map(int, input().split())))\n"


def both(rig, program, tests=SUM, fn_name=None):
    """The public harness's outcome, and that of a real process."""
    problem = make_problem(tests, fn_name=fn_name, kind="lines")

    async def judge():
        published = await verify_published(problem, program, sandbox=rig.sandbox, config=rig.config)
        strict = await verify(problem, program, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True)
        return published.outcome, strict.outcome

    return rig.run(judge())


PROGRAMS = {
    "plain": (BODY, AC, AC),
    "global at module level": (
        "total = 0\ndef add(x):\n    global total\n    total += x\n"
        "input()\nfor x in input().split(): add(int(x))\nprint(total)\n", RE, AC,
    ),
    "buffer.readline": (
        "import sys\nread = sys.stdin.buffer.readline\nn = int(read())\nprint(sum(map(int, read().split())))\n", WA, AC,
    ),
    "buffer.read": ("import sys\nn, *xs = map(int, sys.stdin.buffer.read().split())\nprint(sum(xs))\n", AC, AC),
    "buffer.readlines": ("import sys\nprint(sum(map(int, sys.stdin.buffer.readlines()[1].split())))\n", RE, AC),
    "stdout.buffer": (
        "import sys\ninput()\nsys.stdout.buffer.write(b'%d' % sum(map(int, input().split())))\n", RE, AC,
    ),
    "os.read": ("import os\nprint(sum(map(int, os.read(0, 99).split()[1:])))\n", WA, AC),
    "main in the middle": (
        "if __name__ == '__main__':\n    input()\n    print(sum(map(int, input().split())))\nx = 1\n", WA, AC,
    ),
    "main at the end": ("if __name__ == '__main__':\n    input()\n    print(sum(map(int, input().split())))\n", AC, AC),
    "for line in sys.stdin": (
        "import sys\nfor line in sys.stdin: last = line\nprint(sum(map(int, last.split())))\n", RE, AC,
    ),
    "from sys import stdin": (
        "from sys import stdin\nstdin.readline()\nprint(sum(map(int, stdin.readline().split())))\n", AC, AC,
    ),
    "exit": (BODY + "exit()\n", AC, AC),
    "2.0 for 2": (BODY.replace("print(sum", "print(1.0 * sum"), AC, AC),
    "modules without imports": ("input()\nprint(floor(fsum(map(int, input().split()))))\n", AC, RE),
    "no Python": ("print(", RE, RE),
    "state of a process is kept": (
        "import math\ninput()\nxs = [*map(int, input().split())]\nmath.seen = getattr(math, 'seen', 0) + 1\n"
        "print(sum(xs) if math.seen < 2 else 'again')\n", WA, AC,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_read_stdin(local_rig, name):
    program, published, strict = PROGRAMS[name]
    assert both(local_rig, program) == (published, strict)


@pytest.mark.parametrize(
    ("printed", "published"), [("a  b", WA), ("A b", WA), ("a b  \n\n", AC)], ids=["double space", "case", "blanks"]
)
def test_words_are_compared_line_by_line(local_rig, printed, published):
    assert both(local_rig, f"print({printed!r})", tests=(("1\n", "a b\n"),))[0] == published


FUNCTIONS = {
    "tuple": ("def f(x): return (x, x)", AC),
    "nested tuple": ("def f(x): return [(x, x)]", WA),
    "float": ("def f(x): return [float(x), x]", AC),
    "raises": ("def f(x): return 1 / 0", RE),
    "missing": ("def g(x): return [x, x]", RE),
    "one Solution for all tests": (
        "class Solution:\n    seen = 0\n    def f(self, x):\n        self.seen += 1\n        return [x, x * self.seen]",
        WA,
    ),
    "ends the process": ("import os\ndef f(x): os._exit(0)", RE),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(local_rig, name):
    program, published = FUNCTIONS[name]
    assert both(local_rig, program, tests=(("[4]", "[4, 4]"), ("[5]", "[5, 5]")), fn_name="f")[0] == published


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "published"), [(5, AC), (7, TLE)])
def test_a_test_has_six_seconds_of_wall_time(local_rig, seconds, published):
    program = f"import time\ntime.sleep({seconds})\nprint(3)\n"
    assert both(local_rig, program, tests=(("1\n", "3\n"),))[0] == published


def test_no_expected_output_is_where_the_program_runs(local_rig):
    """A program that finds it in what its process holds would print it."""
    program = """import gc
input()
held = [x for x in gc.get_objects() if isinstance(x, (list, dict, tuple))]
words = [w for x in held for w in (x.values() if isinstance(x, dict) else x) if isinstance(w, str)]
print(next((w for w in words if w.startswith("7316") and w.strip().isdigit()), "none"))
"""
    tests = (("1\n", "none\n"), ("1\n", "73165281\n"))
    assert both(local_rig, program, tests=tests)[0] == WA
    assert both(local_rig, program, tests=tests[:1])[0] == AC


def test_no_program(local_rig):
    assert both(local_rig, None)[0] == Outcome.NO_PROGRAM
