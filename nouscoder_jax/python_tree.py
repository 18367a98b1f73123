"""The syntax tree of Python source that anybody may have written.

In: text. Out: its tree; None, or a ValueError, where this interpreter cannot read it. Nothing of the text is run.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator


def parse(source: str) -> ast.Module | None:
    """The tree; None where this interpreter's grammar or limits do not take the text. No warning is shown."""
    try:
        return read(source)
    except ValueError:
        return None


def read(source: str) -> ast.Module:
    """The tree. Raises ValueError that says why there is none. No warning is shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError, SystemError) as error:  # 3.11: SystemError for deep nesting
        raise ValueError(str(error)) from error


def of_module(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside functions and classes, whose own names those are not."""
    todo = [tree]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            yield node
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
                todo.append(node)


def module_names(tree: ast.Module) -> set[str]:
    """The names that running the module binds in it, but for those of star imports."""
    names: set[str] = set()
    for node in of_module(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names
