"""A program under its platform's imports.

In: the source that goes before every program, a program. Out: one source, whose `from __future__` lines come first as
Python demands and whose built-ins are Python's.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re

from nouscoder_jax.python_tree import parse

_BOM = "\ufeff"
_LATE = ("aiter", "anext")  # not in every Python that runs programs


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
    nodes = list(ast.walk(tree)) if tree is not None else []
    if not any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in nodes):
        return prelude
    own = {name for node in nodes for name in _bound(node)}
    if not own & set(dir(builtins)):
        return f"{prelude}\nfrom builtins import *"
    hidden = [name for name in dir(builtins) if name.islower() and name[0] != "_" and name not in {*own, *_LATE}]
    return f"{prelude}\nfrom builtins import {', '.join(hidden)}"


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    return [node.asname or node.name] if isinstance(node, ast.alias) else []
