"""A program under its platform's imports.

In: the source that goes before every program, a program. Out: one source, whose `from __future__` lines come first as
Python demands and whose built-ins are Python's.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re

from nouscoder_jax.python_tree import module_names, of_module, parse

_BOM = "\ufeff"
_NOT_EVERYWHERE = {"aiter", "anext"} | {"copyright", "credits", "exit", "quit", "license", "help"}
"""Built-ins that not every Python that runs programs has: new ones, and those that the module `site` adds."""


def with_prelude(prelude: str, program: str) -> str:
    """The program with the prelude before its first statement that is neither its docstring nor `from __future__`.

    A built-in that a star import of the prelude hides is Python's again; what the prelude binds by name stays.
    """
    if not prelude:
        return program
    program = program.removeprefix(_BOM)
    before = _with_builtins(prelude)
    tree = parse(program) if "__future__" in program else None
    last = _last_future(tree) if tree is not None else None
    if last is None or last.end_lineno is None or last.end_col_offset is None:
        return f"{before}\n{program}"
    lines = re.split(r"\r\n|\r|\n", program)
    line = lines[last.end_lineno - 1].encode("utf-8")
    head, tail = line[: last.end_col_offset].decode(), line[last.end_col_offset :].decode().lstrip(" \t;")
    return "\n".join([*lines[: last.end_lineno - 1], head, before, tail, *lines[last.end_lineno :]])


def _last_future(tree: ast.Module) -> ast.ImportFrom | None:
    found = None
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            found = node
        elif place or not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            break
    return found


@functools.lru_cache(maxsize=256)
def _with_builtins(prelude: str) -> str:
    tree = parse(prelude)
    nodes = of_module(tree) if tree is not None else ()
    if tree is None or not any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in nodes):
        return prelude
    own = module_names(tree)
    if not own & set(dir(builtins)):
        return f"{prelude}\nfrom builtins import *"
    own |= _NOT_EVERYWHERE
    hidden = [name for name in dir(builtins) if name.islower() and name[0] != "_" and name not in own]
    return f"{prelude}\nfrom builtins import {', '.join(hidden)}"
