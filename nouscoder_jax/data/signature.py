"""The signature of a function problem: its parameters, and what its JSON arguments stand for.

In: starter code or a right program, tests. Out: names, a call signature such as `(ListNode,_)->ListNode`
(nouscoder_jax/verifier/inside/values.py), or a ValueError for what JSON cannot say.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nouscoder_jax.python_tree import parse
from nouscoder_jax.types import TestCase

_NODES = ("ListNode", "TreeNode")
_NO_VALUES = ("Node", "NestedInteger", "ImmutableListNode", "PolyNode", "QuadNode", "GraphNode")
"""Classes that platforms hand to functions and that no list stands for."""
_STATED = re.compile(
    r"(?:\((?:KIND(?:,KIND)*)?\)->(?:KIND|0))?".replace("KIND", r"\[*(?:_|\{int\??\}|ListNode|TreeNode)\]*")
)
_GIVES = re.compile(r"\breturn\b[ \t]*[^\s#;]|\byield\b|\blambda\b")
_INT_KEYS = re.compile(r"-?(?:0|[1-9]\d*)")


class Signature(NamedTuple):
    """What is known of a function.

    Example:
        Signature(parameters=("head", "k"), call="(ListNode,_)->ListNode", derived=("...",))
    """

    parameters: tuple[str, ...]
    call: str
    """Empty: arguments and result are as they are."""
    derived: tuple[str, ...]
    """What was concluded, for people."""


def signature(
    fn_name: str,
    tests: Sequence[TestCase],
    *,
    starter_code: str,
    programs: Sequence[str],
    compares: bool,
    stated: str | None = None,
) -> Signature:
    """The function's signature by its starter code, else by the first of `programs` that defines it, else by its tests.

    `stated`: the call, where it need not be concluded. `compares`: expected outputs are JSON values, which a problem
    with a checker of its own need not have. Raises ValueError: a test that is no JSON list of arguments with a JSON
    value, an argument that JSON cannot say, a call that is none.
    """
    arguments = [_arguments(test) for test in tests]
    expected = [_json(test.expected, "output", "a JSON value") for test in tests] if compares else []
    num = max(map(len, arguments), default=0)
    found = next(filter(None, (_function(source, fn_name) for source in (starter_code, *programs))), None)
    if found is not None and fn_name.rpartition(".")[2] in starter_code:
        _check_counts(found, {len(one) for one in arguments}, fn_name)
    names, hints, returns = _hints(found) if found is not None else ([], [], "")
    if len(names) < num:
        names, hints = list(string.ascii_lowercase[:num]) if num <= 26 else [], []
    if stated is not None:
        if not _STATED.fullmatch(stated):
            raise ValueError(f"the field 'signature' is {_shown(stated)}, expected such as '(ListNode,_)->ListNode'")
        return Signature(tuple(names), stated, ())
    hints += [""] * (num - len(hints))
    kinds = [_kind(hint, f"the argument {name!r} of {fn_name}") for hint, name in zip(hints, names, strict=False)][:num]
    kinds += ["_"] * (num - len(kinds))
    derived = []
    for place in range(num):
        values = [one[place] for one in arguments if place < len(one)]
        if (
            kinds[place] == "_"
            and not re.search(r"\b(?:dict|mapping)\[str\b", hints[place], re.I)
            and _int_keyed(values)
        ):
            kinds[place] = "{int?}"
            derived.append(f"the keys of argument {place + 1} may be integers, nothing says so: both are found")
    for name, kind, values in zip(names, kinds, itertools.zip_longest(*arguments), strict=False):
        _check_nodes(kind, values, f"the argument {name!r} of {fn_name}")
    in_place = returns == "None" or (found is not None and not returns and _gives_nothing(fn_name, programs))
    result = "_" if returns == "None" else _kind(returns, f"the result of {fn_name}")
    _check_nodes(result, expected, f"the result of {fn_name}")
    if in_place and any(value is not None for value in expected):
        result = "0"
        derived.append(f"{fn_name} returns nothing: its first argument after the call is compared")
    if set(kinds) <= {"_"} and result == "_":
        return Signature(tuple(names), "", tuple(derived))
    call = f"({','.join(kinds)})->{result}"
    return Signature(tuple(names), call, (*derived, f"arguments and result are made by {call}"))


def _arguments(test: TestCase) -> list[Any]:
    value = _json(test.input, "input", "a JSON list of positional arguments")
    if not isinstance(value, list):
        raise ValueError(
            f"a test's input is {_shown(test.input)}, expected a JSON list of positional arguments; another set's "
            "encoding is converted by nouscoder_jax/data/encodings.py"
        )
    return value


def _json(text: str, what: str, wanted: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_int=str, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"a test's {what} is {_shown(text)}, expected {wanted} ({str(error).partition(':')[0]}); another set's "
            "encoding is converted by nouscoder_jax/data/encodings.py"
        ) from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _function(source: str, fn_name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    name = fn_name.rpartition(".")[2]
    if name not in source:
        return None
    for end in ("\n        pass", "", "\n    pass", " pass"):  # starter code stops before the body
        tree = parse(source.rstrip() + end)
        if tree is None:
            continue
        functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        return next((node for node in functions if node.name == name), None)
    return None


def _hints(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[list[str], list[str], str]:
    """Names and annotations of the parameters, and the annotation of the result."""
    given = [*function.args.posonlyargs, *function.args.args]
    if given and given[0].arg == "self":
        given = given[1:]
    hints = [_unquoted(one.annotation) for one in given]
    return [one.arg for one in given], hints, _unquoted(function.returns)


def _check_counts(function: ast.FunctionDef | ast.AsyncFunctionDef, counts: set[int], fn_name: str) -> None:
    """Raises ValueError where a test gives other numbers of arguments than the starter code's function takes."""
    takes = function.args
    most = len([one for one in (*takes.posonlyargs, *takes.args) if one.arg != "self"])
    least = most - len(takes.defaults)
    wrong = [count for count in sorted(counts) if count < least or (count > most and takes.vararg is None)]
    if wrong:
        raise ValueError(f"a test gives {wrong[0]} arguments, and {fn_name} of the starter code takes {most}")


def _check_nodes(kind: str, values: Iterable[object], whose: str) -> None:
    """Raises ValueError for a node that is given by something else than the list of its values: one within another
    tree, say, which no JSON value stands for."""
    if kind in _NODES and (wrong := [value for value in values if value is not None and not isinstance(value, list)]):
        raise ValueError(
            f"{whose} is a {kind}, and a test has {_shown(str(wrong[0]))} for it, expected a list of its values or "
            "null; leave the problem out"
        )


def _gives_nothing(fn_name: str, programs: Sequence[str]) -> bool:
    """Whether the right programs' function has no `return` with a value."""
    if any(_GIVES.search(source) for source in programs):  # most: no need to read them
        return False
    functions = [function for function in (_function(source, fn_name) for source in programs) if function is not None]
    nodes = [node for function in functions for node in ast.walk(function)]
    gives = any(
        isinstance(node, (ast.Yield, ast.YieldFrom)) or getattr(node, "value", None) is not None
        for node in nodes
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom))
    )
    return bool(functions) and not gives


def _unquoted(hint: ast.expr | None) -> str:
    return "" if hint is None else ast.unparse(hint).replace("'", "").replace('"', "")


def _kind(hint: str, whose: str) -> str:
    """The kind of a value by its annotation. Raises ValueError for one that JSON cannot say."""
    hint = re.sub(r"\btyping\.", "", hint).replace(" ", "")
    if found := re.fullmatch(r"Optional\[(.*)\]|(.*)\|None|None\|(.*)", hint):
        return _kind(next(filter(None, found.groups())), whose)
    if found := re.fullmatch(r"(?:[Ll]ist|Sequence|Iterable)\[(.*)\]", hint):
        inner = _kind(found[1], whose)
        return inner if inner in ("_", "{int}") else f"[{inner}]"
    if hint in _NODES:
        return hint
    if refused := [name for name in (*_NO_VALUES, *_NODES) if re.search(rf"\b{name}\b", hint)]:
        raise ValueError(f"{whose} is a {hint}; no JSON value stands for a {refused[0]}, leave the problem out")
    keys = re.findall(r"\b(?:[Dd]ict|Mapping|DefaultDict|defaultdict|Counter)\[(\w+)", hint)
    if "int" not in keys:
        return "_"
    return "{int}" if set(keys) == {"int"} else "{int?}"


def _int_keyed(values: Sequence[object]) -> bool:
    """Whether there are objects in the values, and all their keys are integers."""
    keys: list[str] = []
    todo = list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            keys += value
            todo += value.values()
        elif isinstance(value, list):
            todo += [item for item in value if isinstance(item, (list, dict))]
    return bool(keys) and all(map(_INT_KEYS.fullmatch, keys))
