"""What can be told about Python source without running it.

In: text. Out: its syntax tree, whether it does anything, which names it needs and gives.
"""

from __future__ import annotations

import ast
import builtins

from nouscoder_jax.python_tree import parse

_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__"}
_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Import, ast.ImportFrom)
MOST_CHARS = 1 << 16
"""Of one source. Contests take no longer ones."""


class Parser:
    """Syntax trees of the stretches of one text. What was parsed in all is bounded: a text that was made to take long
    is not taken apart for ever."""

    def __init__(self, most_chars: int) -> None:
        self._left = most_chars
        self._trees: dict[str, ast.Module | None] = {}

    def parse(self, source: str) -> ast.Module | None:
        """The tree; None where this interpreter's grammar does not take the text, or it is too long."""
        if source not in self._trees:
            if len(source) > min(self._left, MOST_CHARS):
                return None
            self._left -= len(source)
            self._trees[source] = parse(source)
        return self._trees[source]


def does_something(tree: ast.Module) -> bool:
    """Whether it stands alone or prints. A sample output such as `8`, `YES` or `f(2) == 4` is Python and does not."""
    return _has(tree, ("input", "open", "print", "exec", "__import__"))


def stands_alone(tree: ast.Module) -> bool:
    """Whether it defines or imports something, or reads input: more than an example of a call."""
    return _has(tree, ("input", "open", "exec", "__import__"))


def reads_input(tree: ast.Module) -> bool:
    """Whether it speaks of standard input."""
    return _has_name(tree, ("input", "open", "stdin"))


def prints(tree: ast.Module) -> bool:
    """Whether it speaks of printing."""
    return _has_name(tree, ("print", "stdout", "write"))


def _has_name(tree: ast.Module, names: tuple[str, ...]) -> bool:
    return any(getattr(node, "id", getattr(node, "attr", None)) in names for node in ast.walk(tree))


def _has(tree: ast.Module, names: tuple[str, ...]) -> bool:
    """Whether it defines something or uses one of the names. `input: 4` and `input` use none."""
    alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return any(
        isinstance(node, _DEFINING)
        or (isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load) and node not in alone)
        for node in ast.walk(tree)
    )


def given_names(tree: ast.Module) -> set[str]:
    """Every name that it binds, in whatever scope; `*` where it imports all of a module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
    return names


def needed_names(tree: ast.Module) -> set[str]:
    """Names that it reads and that neither it nor Python gives; none where it imports all of a module."""
    given = given_names(tree)
    if "*" in given:
        return set()
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - given - _BUILTINS
