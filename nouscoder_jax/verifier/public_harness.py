"""Runs a program inside a sandbox the way that LiveCodeBench's public harness runs it, where that decides what passes.

In: JSON on stdin, with the program, the inputs of all tests, the function to call or null. Out: a line of JSON a test,
up to the first that fails by itself. Nothing is compared here. Standard library only; it is sent as text.

What is kept of lcb_runner/evaluation/testing_util.py (MIT): names of many modules are there; all tests run in one
process, on one Solution(); a program that reads stdin is the body of a function below its own imports, its last
`if __name__ == "__main__"` is unwrapped and no other runs; stdin is a stand-in without iteration, whose buffer has
read and readline alone, the latter always of the first line; open() gives the input; 6 seconds of wall time a test.
"""

import ast
import builtins
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from unittest import mock

SECONDS = 6
EVERYTHING_OF = [
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "sys",
    "json",
    "builtins",
    "typing",
]
BY_NAME = [
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "sys",
    "json",
]
FIRST = "".join(
    [
        *(f"from {name} import *\n" for name in EVERYTHING_OF),
        *(f"import {name}\n" for name in BY_NAME),
        "sys.setrecursionlimit(50000)\n",
    ]
)
OUT_OF_USE = {
    os: "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace "
    "unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir",
    shutil: "rmtree move chown",
    subprocess: "Popen",
    builtins: "quit help",
}


class TimeoutException(Exception):  # noqa: N818  its name decides what a program that prints its errors prints
    """The alarm went off."""


class Buffer:
    """stdin.buffer."""

    def __init__(self, given):
        self.given = given.encode("utf-8")

    def read(self, *_):
        return self.given

    def readline(self, *_):
        return self.given.partition(b"\n")[0] + b"\n"


class Stdin:
    """What a program finds as sys.stdin."""

    def __init__(self, given):
        self.given, self.text, self.buffer = given, io.StringIO(given), Buffer(given)

    def read(self, *_):
        return self.given

    def readline(self, *sizes):
        return self.text.readline(*sizes)

    def readlines(self, *_):
        return self.given.split("\n")

    def __getattr__(self, name):
        return getattr(self.text, name)


def as_function(program):
    """The source of a program that reads stdin, as a function below its imports; as it is where it is no Python."""
    try:
        body = ast.parse(program).body
        if isinstance(body[-1], ast.If) and ast.unparse(body[-1].test) == "__name__ == '__main__'":
            body = [*body[:-1], *body[-1].body]
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return program
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    others = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
    function = ast.parse("def wrapped_function():\n    pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = others  # none: no Python, as a program of imports alone is none there
    return "\n".join([FIRST, *map(ast.unparse, imports), ast.unparse(function)])


def made(order):
    """The function that every test calls. Raises what the program raises, AttributeError where it is not there."""
    name = order["fn_name"]
    source = FIRST + "\n" + order["program"] if name else as_function(order["program"])
    module = types.ModuleType("tmp_sol")
    signal.alarm(SECONDS)
    try:
        exec(source, module.__dict__)
        owner = module.Solution() if "class Solution" in source else module
        return getattr(owner, name or "wrapped_function")
    finally:
        signal.alarm(0)


def printed(function, given):
    """What the function prints, for this input."""
    lines = iter(given.split("\n"))
    real, out = sys.stdin, io.StringIO()
    out.close = lambda *_: None
    by_name = {
        "read": lambda *_: given,
        "readlines": lambda *_: given.split("\n"),
        "readline": lambda *_: next(lines),
    }
    with contextlib.ExitStack() as stack:
        for name, method in by_name.items():  # a program that has imported stdin by name has the real one
            stack.enter_context(mock.patch.object(real, name, method))
        stack.enter_context(mock.patch.object(sys, "stdin", Stdin(given)))
        stack.enter_context(mock.patch.object(builtins, "open", mock.mock_open(read_data=given)))
        stack.enter_context(mock.patch.object(sys, "stdout", out))
        with contextlib.suppress(SystemExit):
            function()
    return out.getvalue()


def described(value):
    """A value as JSON that keeps what JSON does not: tuples, keys, large integers, what equals nothing."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return ["int", hex(value)]
    if isinstance(value, float):
        return ["float", float(value).hex()]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", [described(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[described(key), described(item)] for key, item in value.items()]]
    return ["other", type(value).__name__]


def main():
    """Runs the program of the order on all inputs, up to the first that fails by itself."""
    order = json.loads(sys.stdin.read())
    results = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def tell(**values):
        print(json.dumps(values), file=results, flush=True)

    def alarm(*_):
        raise TimeoutException

    signal.signal(signal.SIGALRM, alarm)
    for module, names in OUT_OF_USE.items():
        for name in names.split():
            setattr(module, name, None)
    try:
        function = made(order)
    except Exception as error:
        tell(error=repr(error)[:300])
        return
    for given in order["inputs"]:
        signal.alarm(SECONDS)
        try:
            output = described(function(*json.loads(given))) if order["fn_name"] else printed(function, given)
            signal.alarm(0)
        except Exception as error:
            signal.alarm(0)
            tell(error=repr(error)[:300], timeout="timeoutexception" in repr(error).lower())
            return
        tell(output=output)


if __name__ == "__main__":
    main()
