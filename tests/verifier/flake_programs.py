"""200 programs whose verdict is known, for the flake audit: right, wrong, failing, over a limit, close to a limit."""

from judge_rig import make_problem

from nouscoder_jax.types import Outcome

PAIRS = ((3, 4), (10, 20), (123, 456))

RIGHT = (
    "a, b = map(int, input().split())\nprint(a + b + {k})",
    "import sys\na, b = map(int, sys.stdin.buffer.readline().split())\nprint(a + b + {k})",
    "import sys\nprint(sum(map(int, sys.stdin.read().split())) + {k})\nsys.exit(1)",
    "def f(n):\n    return n and 1 + f(n - 1)\na, b = map(int, input().split())\nprint(f(a) + f(b) + f({k}))",
    "import threading\nout = []\ndef work():\n    out.append(sum(map(int, input().split())) + {k})\n"
    "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\nprint(out[0])",
    "import os\nleft, right = os.pipe()\nif os.fork() == 0:\n    answer = sum(map(int, input().split())) + {k}\n"
    "    os.write(right, str(answer).encode())\n    os._exit(0)\nos.wait()\nprint(os.read(left, 100).decode())",
)
WRONG = (
    "a, b = map(int, input().split())\nprint(a + b + {k} + 1)",
    "input()\n#{k}",
    "a, b = map(int, input().split())\nprint(a + b + {k} - (a > 100))",
    "a, b = map(int, input().split())\nprint(a + b + {k}, a)",
)
FAILING = (
    "a, b = map(int, input().split())\nprint(a + b + {k})\n1 / 0",
    "import os\na, b = map(int, input().split())\nprint(a + b + {k}, flush=True)\nos.abort()",
    "def f(n):\n    return f(n + {k} + 1)\nf(0)",
    "import os, signal\nprint({k})\nos.kill(os.getpid(), signal.SIGTERM)\nwhile True:\n    pass",
)
TOO_MUCH_MEMORY = (
    "held = bytearray({k} * 10**11 + 10**11)",
    "import time\nheld = [bytes([{k}]) * (50 << 20) for _ in range(6)]\nwhile True:\n    time.sleep(0.01)",
)
TOO_MUCH_OUTPUT = ("print('{k}' * (3 << 20))", "while True:\n    print('{k}' * 1000)")
ENDLESS = ("n = {k}\nwhile True:\n    n += 1", "import os\nos.fork()\nn = {k}\nwhile True:\n    n += 1")
ASLEEP = ("import time\ntime.sleep(1000 + {k})",)
NEAR = "import time\nwhile time.process_time() < {limit}:\n    pass\nprint(sum(map(int, input().split())) + {k})"
NAPPING = "import time\ntime.sleep({limit})\nprint(sum(map(int, input().split())) + {k})"
NEAR_LIMIT_S, NEAR_SHARE = 0.4, 0.6
END_LIMIT_S = 0.2


def make_programs():
    """(name, problem, program, expected outcome) of all 200."""
    made = []

    def add(name, templates, count, outcome, *, num_tests, limit_s, **limits):
        for number in range(count):
            k = 1 + number // len(templates)
            tests = [(f"{a} {b}\n", f"{a + b + k}\n") for a, b in PAIRS[:num_tests]]
            problem = make_problem(tests, time_limit_s=limit_s, **limits)
            program = templates[number % len(templates)].replace("{k}", str(k))
            made.append((f"{name} {number}", problem, program, outcome))

    near = NEAR.replace("{limit}", str(NEAR_SHARE * NEAR_LIMIT_S))
    napping = NAPPING.replace("{limit}", str(NEAR_LIMIT_S))
    add("right", RIGHT, 60, Outcome.ACCEPTED, num_tests=3, limit_s=2.0)
    add("wrong", WRONG, 40, Outcome.WRONG_ANSWER, num_tests=3, limit_s=2.0)
    add("failing", FAILING, 40, Outcome.RUNTIME_ERROR, num_tests=2, limit_s=2.0)
    add("memory", TOO_MUCH_MEMORY, 10, Outcome.MEMORY_LIMIT, num_tests=1, limit_s=4.0, memory_limit_mib=128)
    add("output", TOO_MUCH_OUTPUT, 10, Outcome.OUTPUT_LIMIT, num_tests=1, limit_s=4.0)
    add("endless", ENDLESS, 15, Outcome.TIME_LIMIT, num_tests=1, limit_s=END_LIMIT_S)
    add("asleep", ASLEEP, 5, Outcome.TIME_LIMIT, num_tests=1, limit_s=END_LIMIT_S)
    add("near", (near,), 15, Outcome.ACCEPTED, num_tests=1, limit_s=NEAR_LIMIT_S)
    add("napping", (napping,), 5, Outcome.ACCEPTED, num_tests=1, limit_s=NEAR_LIMIT_S)
    return made
