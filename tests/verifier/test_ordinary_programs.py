# ruff: noqa: E501  (programs read better on one line)
"""Ordinary programs must be accepted: each reads two numbers and prints their sum, in one of the ways people do."""

import pytest
from judge_bench import make_problem

from nouscoder_jax.types import Outcome
from nouscoder_jax.verifier.verify import verify

PROGRAMS = {
    "input": "a, b = map(int, input().split())\nprint(a + b)",
    "stdin_read": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "buffer_readline": "import sys\nr = sys.stdin.buffer.readline\nprint(sum(map(int, r().split())))",
    "buffer_readlines": "import sys\nprint(sum(int(x) for l in sys.stdin.buffer.readlines() for x in l.split()))",
    "buffer_write": "import sys\na, b = map(int, input().split())\nsys.stdout.buffer.write(b'%d\\n' % (a + b))",
    "for_line": "import sys\nfor l in sys.stdin:\n    print(sum(map(int, l.split())))",
    "open_0": "print(sum(map(int, open(0).read().split())))",
    "open_0_binary": "print(sum(map(int, open(0, 'rb').read().split())))",
    "os_read": "import os\na, b = map(int, os.read(0, 1 << 20).split())\nos.write(1, str(a + b).encode())",
    "dev_stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "fileinput": "import fileinput\nfor l in fileinput.input():\n    print(sum(map(int, l.split())))",
    "bytesio_reopened": "import io, os, sys\nsys.stdin = io.BytesIO(os.read(0, os.fstat(0).st_size))\n"
    "input = lambda: sys.stdin.readline().rstrip()\nprint(sum(map(int, input().split())))",
    "open_1_unclosed": "out = open(1, 'w')\nprint(sum(map(int, input().split())), file=out)",
    "write_method": "w = open(1, 'w').write\nw(str(sum(map(int, input().split()))))",
    "atexit": "import atexit, io, os, sys\nsys.stdout = io.StringIO()\n"
    "atexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))\nprint(sum(map(int, input().split())))",
    "main_guard": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "main_guard_in_the_middle": "if __name__ == '__main__':\n    x = sum(map(int, input().split()))\nprint(x)",
    "global": "x = 0\ndef f():\n    global x\n    x = sum(map(int, input().split()))\nf()\nprint(x)",
    "exit": "print(sum(map(int, input().split())))\nexit()",
    "quit": "print(sum(map(int, input().split())))\nquit()",
    "sys_exit_1": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)",
    "os_exit": "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)",
    "no_newline": "import sys\nsys.stdout.write(str(sum(map(int, input().split()))))",
    "eof_loop": "try:\n    while True:\n        print(sum(map(int, input().split())))\nexcept EOFError:\n    pass",
    "thread": "import threading\ndef f():\n    print(sum(map(int, input().split())))\nthreading.Thread(target=f).start()",
    "thread_large_stack": "import sys, threading\nsys.setrecursionlimit(10**7)\nthreading.stack_size(1 << 28)\n"
    "def d(n): return 0 if n == 0 else 1 + max(d(n - 1), 0)\ndef f():\n    d(50000)\n"
    "    print(sum(map(int, input().split())))\nt = threading.Thread(target=f)\nt.start()\nt.join()",
    "recursion": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
    "def d(n): return 0 if n == 0 else 1 + d(n - 1)\nd(40000)\nprint(sum(map(int, input().split())))",
    "large_ints": "a, b = map(int, input().split())\nx = int('9' * 10000)\nassert len(str(x)) == 10000\nprint(a + b)",
    "stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))",
    "temporary_file": "import tempfile\nf = tempfile.TemporaryFile('w+')\nf.write(input())\nf.seek(0)\n"
    "print(sum(map(int, f.read().split())))",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print(sum(map(int, input().split())))\n"
    "asyncio.run(f())",
    "multiprocessing": "from multiprocessing import Pool\ndef f(x): return x\nif __name__ == '__main__':\n"
    "    with Pool(2) as p:\n        print(sum(p.map(f, map(int, input().split()))))",
    "subprocess_of_itself": "import subprocess, sys\nif len(sys.argv) > 1:\n    print(sum(map(int, sys.argv[1:])))\nelse:\n"
    "    sys.stdout.write(subprocess.run([sys.executable, __file__, *input().split()], capture_output=True, text=True).stdout)",
    "futures": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(2) as e:\n    print(sum(e.map(int, input().split())))",
    "dataclass_pickle": "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    "print(sum(pickle.loads(pickle.dumps(P(int(v)))).x for v in input().split()))",
    "signal": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.alarm(1)\n"
    "print(sum(map(int, input().split())))",
    "big_output": "s = sum(map(int, input().split()))\nprint(' ' * 1000000)\nprint(s)",
    "future_import": "from __future__ import annotations\nprint(sum(map(int, input().split())))",
    "walrus_match": "match input().split():\n    case [a, b]:\n        print(int(a) + int(b))",
    "coding_line": "# -*- coding: utf-8 -*-\n# é\nprint(sum(map(int, input().split())))",
    "crlf_source": "a, b = map(int, input().split())\r\nprint(a + b)\r\n",
    "reads_nothing_more": "import sys\nprint(sum(map(int, sys.stdin.readline().split())))\nsys.stdin.close()",
    "leftover_daemon": "import os, time\nprint(sum(map(int, input().split())), flush=True)\n"
    "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_ordinary_program_is_accepted(bench, name):
    problem = make_problem([("2 3\n", "5\n"), ("10 20\n", "30\n")], prelude="import math\n" if "future" in name else "")
    verdict = bench.run(
        verify(problem, PROGRAMS[name], sandbox=bench.sandbox, config=bench.config, stop_at_first_failure=True)
    )
    assert verdict.outcome is Outcome.ACCEPTED, verdict
    assert verdict.tests_passed == 2


FUNCTIONS = {
    "plain": ("f", "def f(x, y):\n    return [x + y, (x, y), {'a': x}]"),
    "method": (
        "Solution.f",
        "class Solution:\n    def f(self, x, y):\n        return (x + y, [x, y], {'a': float(x)})",
    ),
    "prints_too": ("f", "def f(x, y):\n    print('noise')\n    return [x + y, [x, y], {'a': x}]"),
    "subclasses": (
        "f",
        "from collections import *\nP = namedtuple('P', 'x y')\ndef f(x, y):\n    d = defaultdict(int)\n    d['a'] = x\n"
        "    return [x + y, P(x, y), d]",
    ),
    "main_guard_not_run": (
        "f",
        "def f(x, y):\n    return [x + y, [x, y], {'a': x}]\nif __name__ == '__main__':\n    raise SystemExit(input())",
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_ordinary_function_is_accepted(bench, name):
    fn_name, program = FUNCTIONS[name]
    problem = make_problem([("[2, 3]", '[5, [2, 3], {"a": 2}]')], fn_name=fn_name, kind="exact")
    verdict = bench.run(
        verify(problem, program, sandbox=bench.sandbox, config=bench.config, stop_at_first_failure=True)
    )
    assert verdict.outcome is Outcome.ACCEPTED, verdict
