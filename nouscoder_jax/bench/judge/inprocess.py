"""UNSAFE, for comparison only: judges programs inside a process that holds the expected outputs too.

Many public graders do. The program can read what is expected, patch the comparison, or claim that it passed.

In: programs and tests, by the protocol of `bench.worker`. Out: how many tests passed, seconds of each. A script for a
bare Python: standard library only.

    livecodebench    what LiveCodeBench's check_correctness does for one program: a manager process for the result, one
                     process for all tests, a block of imports before the program, the program as a function that is
                     called once a test with stdin and stdout patched, an alarm as time limit
    fork             no grader: the floor of judging apart. A process a test, nothing else
"""

from __future__ import annotations

import ast
import gc
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

IMPORTS = (
    "from string import *\nfrom re import *\nfrom datetime import *\nfrom collections import *\nfrom heapq import *\n"
    "from bisect import *\nfrom copy import *\nfrom math import *\nfrom random import *\nfrom statistics import *\n"
    "from itertools import *\nfrom functools import *\nfrom operator import *\nfrom io import *\nfrom json import *\n"
    "from builtins import *\nfrom typing import *\nimport string, re, datetime, collections, heapq, bisect, copy\n"
    "import math, random, statistics, itertools, functools, operator, io, sys, json\n"
)


def same_lines(expected: str, actual: str) -> bool:
    """Lines equal after blanks at both ends of each, and of the whole, are dropped."""
    left, right = ([line.strip() for line in text.strip().split("\n")] for text in (expected, actual))
    return left == right


class Patched(io.StringIO):
    """A stdin made of text, with the `buffer` that programs read bytes from."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._bytes = io.BytesIO(text.encode())

    @property
    def buffer(self) -> io.BytesIO:
        """The same input as bytes."""
        return self._bytes


def livecodebench(program: str, tests: list, limit_s: int) -> tuple[int, list]:
    """A manager and a process a program, as the grader that training code copies most."""
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results = manager.list()
        process = context.Process(target=_grade, args=(program, json.dumps(tests), limit_s, results))
        process.start()
        process.join(timeout=(limit_s + 1) * len(tests) + 5)
        if process.is_alive():
            process.kill()
        passed, seconds = results[0]
    return passed, seconds


def _grade(program: str, tests_json: str, limit_s: int, results) -> None:
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    lines = "\n".join("    " + line for line in ast.unparse(ast.parse(program)).split("\n"))
    place: dict = {"__name__": "judged"}
    signal.alarm(limit_s)
    exec(f"{IMPORTS}\ndef judged():\n{lines}", place)
    signal.alarm(0)
    passed, seconds = 0, []
    stdin, stdout = sys.stdin, sys.stdout
    for given, expected in json.loads(tests_json):
        started = time.perf_counter()
        sys.stdin, sys.stdout = Patched(given), io.StringIO()
        signal.alarm(limit_s)
        try:
            place["judged"]()
        finally:
            signal.alarm(0)
            printed = sys.stdout.getvalue()
            sys.stdin, sys.stdout = stdin, stdout
        passed += same_lines(expected, printed)
        seconds.append(time.perf_counter() - started)
    results.append((passed, seconds))


def fork(program: str, tests: list, limit_s: int) -> tuple[int, list]:
    """A process a test with nothing around it: no limits, no streams of its own, the program compiled before."""
    passed, seconds = 0, []
    code = compile(program, "<program>", "exec")
    for given, expected in tests:
        started = time.perf_counter()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            sys.stdin, sys.stdout = Patched(given), io.StringIO()
            exec(code, {"__name__": "__main__"})
            os.write(writer, sys.stdout.getvalue().encode())
            os._exit(0)
        os.close(writer)
        printed = os.read(reader, 1 << 16).decode()
        os.close(reader)
        os.waitpid(pid, 0)
        passed += same_lines(expected, printed)
        seconds.append(time.perf_counter() - started)
    return passed, seconds


WAYS = {"livecodebench": livecodebench, "fork": fork}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from nouscoder_jax.bench.worker import serve

    gc.disable()
    gc.freeze()  # a collection in a forked process would copy every page
    serve(lambda folder: ({}, {"judge": lambda way, **asked: {"found": WAYS[way](**asked)}}))
