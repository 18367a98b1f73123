"""UNSAFE, for comparison only: judges programs inside a process that holds the expected outputs too.

Many public graders do. The program can read what is expected, patch the comparison, or claim that it passed.

In: lines of JSON on stdin: way, program, tests as [input, expected], limit_s. Out: a line of JSON each: how many tests
passed, seconds of each. A script for a bare Python: standard library only; the ways are in `WAYS`.

    livecodebench    what LiveCodeBench's check_correctness does for one program: a manager process for the result, one
                     process for all tests, a block of imports before the program, the program as a function that is
                     called once a test with stdin and stdout patched, an alarm as time limit
    bare             the least that this can be: one fork for all tests, nothing imported
    fork             no grader: the floor of judging apart. A process a test, nothing else
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import time

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


def run_tests(call, tests: list, limit_s: int) -> tuple[int, list]:
    """Calls the program once a test in this very process. Returns tests passed, seconds of each."""
    passed, seconds = 0, []
    stdin, stdout = sys.stdin, sys.stdout
    for given, expected in tests:
        started = time.perf_counter()
        sys.stdin, sys.stdout = Patched(given), io.StringIO()
        signal.alarm(limit_s)
        try:
            call()
        finally:
            signal.alarm(0)
            printed = sys.stdout.getvalue()
            sys.stdin, sys.stdout = stdin, stdout
        passed += same_lines(expected, printed)
        seconds.append(time.perf_counter() - started)
    return passed, seconds


def bare(program: str, tests: list, limit_s: int) -> tuple[int, list]:
    """One fork; the program is compiled once and executed once a test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = compile(program, "<program>", "exec")
        result = run_tests(lambda: exec(code, {"__name__": "__main__"}), tests, limit_s)
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    passed, seconds = json.loads(answer)
    return passed, seconds


def livecodebench(program: str, tests: list, limit_s: int) -> tuple[int, list]:
    """A manager and a process a program, as the grader that training code copies most."""
    import multiprocessing

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
    import ast

    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    tests = json.loads(tests_json)
    tree = ast.parse(program)
    lines = "\n".join("    " + line for line in ast.unparse(tree).split("\n"))
    place: dict = {"__name__": "judged"}
    signal.alarm(limit_s)
    exec(f"{IMPORTS}\ndef judged():\n{lines}", place)
    signal.alarm(0)
    results.append(run_tests(place["judged"], tests, limit_s))


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


WAYS = {"livecodebench": livecodebench, "bare": bare, "fork": fork}


def main() -> None:
    """Serves lines until stdin ends."""
    lines, answers = sys.stdin, os.dup(1)
    gc.disable()
    gc.freeze()  # a collection in a forked process would copy every page
    for line in lines:
        asked = json.loads(line)
        passed, seconds = WAYS[asked["way"]](asked["program"], asked["tests"], asked["limit_s"])
        os.write(answers, (json.dumps({"passed": passed, "seconds": seconds}) + "\n").encode())


if __name__ == "__main__":
    main()
