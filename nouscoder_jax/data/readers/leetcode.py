"""LeetCodeDataset.

In: its records: problem_description, starter_code, prompt (imports and helpers that go before a program), completion,
entry_point ("Solution().name") and test, the source of check(candidate); before v0.3 the first two are meta's
question_title and lang_code. Out: records of our format. Tests are taken
from the asserts of check, which is read and not run: the field input_output has outputs such as "Execution timed out"
and strings without quotes. Source: README of newfacade/LeetCodeDataset.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from nouscoder_jax.data.readers.fields import LeftOutError, Record, accepted, decoded, problem, shown, text
from nouscoder_jax.python_tree import read

LICENSE = "MIT (LeetCodeDataset); statements (c) LeetCode"
_ENTRY = re.compile(r"Solution\(\)\.(\w+)|(\w+)")
_NAMED_NODE = re.compile(r"\b(?:ListNode|TreeNode)\b")
_SAME = ("is_same_list", "is_same_tree")
_NODES = {"list_node": "ListNode", "tree_node": "TreeNode"}


def leetcode(record: Record) -> dict[str, Any]:
    """A record of newfacade/LeetCodeDataset, v0.1 to v0.3."""
    if about := decoded(record, "meta", dict):
        renamed = {"problem_description": about.get("question_title"), "starter_code": about.get("lang_code")}
        record = {**record, **renamed, "difficulty": about.get("difficulty")}
    entry = _ENTRY.fullmatch(text(record, "entry_point"))
    if entry is None:
        raise ValueError(f"the field 'entry_point' is {shown(record['entry_point'])}, expected 'Solution().name'")
    starter_code = text(record, "starter_code", default="")
    parameters, annotations = _parameters(starter_code, entry[1] or entry[2])
    tests, kinds = _tests(text(record, "test"), parameters)
    return problem(
        f"leetcode/{text(record, 'task_id')}",
        source="newfacade/LeetCodeDataset",
        license=LICENSE,
        statement=text(record, "problem_description"),
        tests=tests,
        signature=kinds if "Node" in kinds and not _NAMED_NODE.search(annotations) else "",
        parameters=parameters,
        checker="exact",
        fn_name=f"Solution.{entry[1]}" if entry[1] else entry[2],
        starter_code=starter_code,
        prelude=text(record, "prompt", default=""),
        title=text(record, "task_id").replace("-", " "),
        platform="leetcode",
        difficulty=text(record, "difficulty", default=""),
        date=str(record.get("estimated_date") or "")[:10],
        url=f"https://leetcode.com/problems/{text(record, 'task_id')}/",
        solutions=accepted([record["completion"]] if record.get("completion") else []),
    )


def _parameters(starter_code: str, name: str) -> tuple[list[str], str]:
    """The names of the function's parameters, and its annotations as one text."""
    for node in ast.walk(read(starter_code.rstrip() + "\n        pass")):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            given = [argument for argument in node.args.args if argument.arg != "self"]
            hints = [hint for hint in (*(one.annotation for one in given), node.returns) if hint is not None]
            return [one.arg for one in given], " ".join(map(ast.unparse, hints))
    raise ValueError(f"the starter code has no function {name!r}")


def _tests(source: str, parameters: list[str]) -> tuple[list[dict[str, str]], str]:
    """The tests of check, and the function's signature as its calls show it: (TreeNode,_)->_"""
    tree = read(source)
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        raise ValueError(f"the field 'test' is {shown(source)}, expected one function check(candidate)")
    tests, kinds = [], [dict[str, None]() for _ in range(len(parameters) + 1)]
    for statement in tree.body[0].body:
        if isinstance(statement, ast.Pass):
            continue
        *arguments, expected = _values(statement, parameters)
        tests.append({"input": _json([value for value, _ in arguments]), "output": _json(expected[0])})
        for seen, (_, kind) in zip(kinds, (*arguments, expected), strict=True):
            seen.setdefault(kind)
    *given, result = ["_" if len(seen) != 1 else next(iter(seen)) for seen in kinds]
    return tests, f"({','.join(given)})->{result}"


def _values(statement: ast.stmt, parameters: list[str]) -> list[tuple[Any, str]]:
    """The arguments, and last the result, of `assert candidate(a = 1) == 2` or of
    `assert is_same_list(candidate(head = list_node([1])), list_node([2]))`, each with its kind."""
    match statement:
        case ast.Assert(test=ast.Compare(left=ast.Call() as call, ops=[ast.Eq()], comparators=[expected])):
            pass
        case ast.Assert(test=ast.Call(func=ast.Name(id=same), args=[ast.Call() as call, expected])) if same in _SAME:
            pass
        case _:
            raise LeftOutError("a test that is no assert of equality")
    if not (isinstance(call.func, ast.Name) and call.func.id == "candidate"):
        raise LeftOutError("a test that is no assert of equality")
    if len(call.args) > len(parameters):
        raise ValueError(f"a test gives {len(call.args)} arguments, the function takes {len(parameters)}")
    given = dict(zip(parameters, call.args, strict=False)) | {str(one.arg): one.value for one in call.keywords}
    if set(given) != set(parameters):
        raise ValueError(f"a test gives {', '.join(given)}, the function takes {', '.join(parameters)}")
    return [_value(given[name]) for name in parameters] + [_value(expected)]


def _value(node: ast.expr) -> tuple[Any, str]:
    """The value of a literal, and its kind in a signature."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[inner]) if name in _NODES:
            return _value(inner)[0], _NODES[name]
        case _:
            try:
                return ast.literal_eval(node), "_"
            except ValueError as error:
                raise LeftOutError("a test with a value that is no literal") from error


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LeftOutError("a test with a value that JSON cannot say") from error
