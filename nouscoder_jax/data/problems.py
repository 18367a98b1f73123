"""Problems and labelled programs, read from JSONL files.

In: a file of one JSON object a line, `.jsonl` or `.jsonl.gz`. Out: Problem and Solution. The fields:

    id                  text, unique in the file
    source, license     text; where it comes from
    statement           text, or null where there is none
    io                  "stdin" or "function"
    fn_name             null, or "f" or "Solution.method" for a function problem
    starter_code        text, optional; what the solver is given
    signature, parameters    optional; how arguments and result are made of JSON and how they are named; by default what
                        the starter code, else a solution labelled accepted, else the tests say (data/signature.py)
    prelude             text, optional; goes before every program
    tests               list of {"input": text, "output": text}; a function's input is a JSON list of positional
                        arguments and its output a JSON value. Line ends of a stdin problem become \\n, a last line
                        without one gets it
    keep_bytes          optional; true: they stay as they are
    time_limit_s        CPU seconds a test, or null
    memory_limit_mb     MiB, or null
    checker             "exact", "lines", "tokens", "numbers", "float:EPS" (absolute and relative) or "program", see
                        types.Comparison; tokens, numbers, lines and a function's exact become float where the
                        statement grants a tolerance, and letters compare without case where it says so
                        (data/tolerance.py)
    checker_detail      optional {"abs": number or null, "rel": number or null}: tolerances apart
    checker_program     with checker "program": source that defines check(input, expected, output) -> bool
    needs_case_insensitive   optional, also as case_insensitive; true: letters compare without case
    exact_bytes_ok      optional; false: a program known to be right prints other bytes than the expected ones, so
                        tokens compare as contests with such answers do: without case, and 2.0 is 2
    family              text, optional; kind of problem, for tables
    title, platform, difficulty, date, url   text, optional; where and when it was set (an ISO date), how hard its
                        source calls it
    solutions           optional list of {"label": text, "code": text}

Other fields are left alone, but one whose name is nearly that of a field above that is not there: that is an error. A
separate file of solutions has lines {"problem_id": text, "code": text[, "label": text]}.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nouscoder_jax.config import UserError
from nouscoder_jax.data.signature import Signature, signature
from nouscoder_jax.data.store import Store
from nouscoder_jax.data.tolerance import granted
from nouscoder_jax.python_tree import module_names, read
from nouscoder_jax.types import Comparison, Problem, Solution, TestCase

_Parsed = TypeVar("_Parsed")


_FIELDS = (
    *("id", "source", "license", "statement", "io", "fn_name", "starter_code", "signature", "parameters", "prelude"),
    *("tests", "keep_bytes", "time_limit_s", "memory_limit_mb", "checker", "checker_detail", "checker_program"),
    *("needs_case_insensitive", "case_insensitive", "exact_bytes_ok", "family", "solutions"),
    *("title", "platform", "difficulty", "date", "url"),
)
_NEAR = 0.85
"""So much alike are `statment` and `statement` and more; `solution` and `solutions` too."""
_OTHER_NAMES = {
    "memorymb": ["memory_limit_mb"],
    "memorymib": ["memory_limit_mb"],
    "timelimit": ["time_limit_s"],
    "statementtext": ["statement"],
    "ignorecase": ["needs_case_insensitive"],
    "params": ["parameters"],
    "testcases": ["tests"],
    "fname": ["fn_name"],
    "functionname": ["fn_name"],
    "absolute": ["abs"],
    "relative": ["rel"],
    "program": ["code"],
    "solution": ["solutions", "code"],
    "lable": ["label"],
}
"""What a field is called elsewhere, without marks and capitals."""
_JSON_NAMES = {str: "text", list: "a list", dict: "an object", bool: "true or false"}
_LEAST_TIME_S, _LEAST_MEMORY_MIB = 0.1, 16
"""A limit below these is one that no Python program keeps: a slip of the data."""


class _Record(dict[str, Any]):
    """A line's object, whose fields are asked for by name and type."""

    def want(self, name: str, *types: type) -> Any:
        if name not in self:
            raise ValueError(f"the field {name!r} is missing")
        if self[name] is None:
            raise ValueError(f"the field {name!r} is null, expected {_names(types)}")
        return self.maybe(name, *types)

    def check_names(self, fields: tuple[str, ...]) -> None:
        """Raises ValueError for a name that is nearly one of the fields, where that field is not there."""
        for name in self.keys() - set(fields):
            near = [field for field in _near(name, fields) if field not in self]
            if near:
                raise ValueError(
                    f"the field {name!r} is unknown, and {near[0]!r} is missing; rename it, or say that there is none "
                    f'with "{near[0]}": null'
                )

    def maybe(self, name: str, *types: type) -> Any:
        value = self.get(name)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise ValueError(f"the field {name!r} is a {type(value).__name__}, expected {_names(types)}")
        return value

    def number(self, name: str, *, positive: bool) -> float | None:
        """The finite number of a field, above 0 or at least 0; None where there is none."""
        value = self.maybe(name, int, float)
        if value is None:
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and (number > 0 or (number == 0 and not positive))):
            wanted = "above 0" if positive else "of at least 0"
            raise ValueError(f"the field {name!r} is {value!s:.40}, expected a finite number {wanted}")
        return number

    def words(self, name: str) -> str:
        """Text for people and models; empty where there is none."""
        value = self.maybe(name, str) or ""
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the field {name!r} is no Unicode text ({error.reason} at {error.start})") from error
        return value


@functools.cache
def _near(name: str, fields: tuple[str, ...]) -> list[str]:
    """Fields that a name may have been meant for: `statment`, or `time_limit` without its unit."""
    plain = _plain_name(name)
    if plain in _OTHER_NAMES:
        return [field for field in _OTHER_NAMES[plain] if field in fields]
    spelled = {_plain_name(field): field for field in fields}
    longer = [field for field in fields if field.startswith(f"{name}_")]
    close = difflib.get_close_matches(plain, spelled, n=2, cutoff=_NEAR)
    return longer or [spelled[one] for one in close]


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names(types: tuple[type, ...]) -> str:
    return " or ".join(_JSON_NAMES.get(kind, kind.__name__) for kind in types)


def read_problems(path: str | Path) -> list[Problem]:
    """All problems of a file or a prepared folder (data/store.py), in its order. Raises UserError: no such file, a
    broken line (named), an id twice."""
    if Path(path).is_dir():
        return list(Store(path).problems())
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, problem in _parse_lines(path, _problem):
        if problem.problem_id in seen:
            raise UserError(
                f"{path}, line {number}: the id {problem.problem_id!r} is also on line {seen[problem.problem_id]}; "
                "ids must be unique"
            )
        seen[problem.problem_id] = number
        problems.append(problem)
    if not problems:
        raise UserError(f"{path} holds no problems; expected one JSON object a line")
    return problems


def read_solutions(path: str | Path) -> list[Solution]:
    """All solutions of a file: of a problem file or prepared folder the labelled ones, else one a line.

    Raises UserError as above."""
    if Path(path).is_dir():
        return list(Store(path).solutions())
    lines = list(_parse_lines(path, _solutions))
    counts: dict[str, int] = {}
    solutions = []
    for _, group in lines:
        for problem_id, label, code in group:
            index = counts.get(problem_id, 0)
            counts[problem_id] = index + 1
            solutions.append(Solution(problem_id=problem_id, solution_index=index, label=label, code=code))
    if not solutions:
        raise UserError(f"{path} holds no solutions; expected a field 'solutions', or lines of problem_id and code")
    return solutions


def write_problems(path: str | Path, problems: Iterable[Problem], *, solutions: Iterable[Solution]) -> None:
    """Writes a file that `read_problems` and `read_solutions` read back to the same values."""
    by_problem: dict[str, list[Solution]] = {}
    for solution in solutions:
        by_problem.setdefault(solution.problem_id, []).append(solution)
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8", newline="\n") as file:
        for problem in problems:
            record = _to_record(problem, by_problem.get(problem.problem_id, []))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _to_record(problem: Problem, solutions: list[Solution]) -> dict[str, Any]:
    comparison = problem.comparison
    checker = f"float:{comparison.abs_tolerance!r}" if comparison.kind == "float" else comparison.kind
    record: dict[str, Any] = {
        "id": problem.problem_id,
        "source": problem.source,
        "license": problem.license,
        "statement": problem.statement,
        "io": "function" if problem.fn_name else "stdin",
        "fn_name": problem.fn_name,
        "starter_code": problem.starter_code,
        "prelude": problem.prelude,
        "family": problem.family,
        "time_limit_s": problem.time_limit_s,
        "memory_limit_mb": problem.memory_limit_mib,
        "checker": checker,
        "needs_case_insensitive": comparison.ignore_case,
    }
    if comparison.kind == "float":
        record["checker_detail"] = {"abs": comparison.abs_tolerance, "rel": comparison.rel_tolerance}
    if comparison.kind == "program":
        record["checker_program"] = comparison.program
    if not problem.fn_name and any(_with_line_ends(test) != test for test in problem.tests):
        record["keep_bytes"] = True
    record |= {name: getattr(problem, name) for name in ("title", "platform", "difficulty", "date", "url")}
    if problem.fn_name:
        record |= {"signature": problem.signature, "parameters": list(problem.parameters)}
    record["tests"] = [{"input": test.input, "output": test.expected} for test in problem.tests]
    record["solutions"] = [{"language": "python3", "label": item.label, "code": item.code} for item in solutions]
    return record


def _parse_lines(path: str | Path, parse: Callable[[_Record], _Parsed]) -> Iterator[tuple[int, _Parsed]]:
    opener = gzip.open if str(path).endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, parse(_object(line))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected a .jsonl or .jsonl.gz file of problems") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no complete gzip file ({error}) after line {number}; copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number + 1}: not UTF-8 ({error.reason}); expected JSON in UTF-8") from error
    except zlib.error as error:
        raise UserError(f"{path} is a damaged gzip file ({error}) after line {number}; copy it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: {error}; mend or remove the line") from error


def _object(line: str) -> _Record:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, expected an object")
    return _Record(value)


def parse_problem(record: Mapping[str, Any]) -> Problem:
    """The problem of one object of the fields above. Raises ValueError: what is wrong with it, in one line."""
    return _problem(_Record(record))


def parse_solutions(record: Mapping[str, Any]) -> list[Solution]:
    """The labelled programs of one object of the fields above. Raises ValueError as `parse_problem`."""
    return [
        Solution(problem_id=problem_id, solution_index=index, label=label, code=code)
        for index, (problem_id, label, code) in enumerate(_solutions(_Record(record)))
    ]


def _problem(record: _Record) -> Problem:
    record.check_names(_FIELDS)
    io, fn_name = record.want("io", str), record.maybe("fn_name", str)
    if io not in ("stdin", "function"):
        raise ValueError(f"the field 'io' is {io!r}, expected 'stdin' or 'function'")
    if (io == "function") != bool(fn_name):
        raise ValueError(
            f"the field 'fn_name' is {fn_name!r} with io {io!r}; a function problem and only it has a name"
        )
    tests = tuple(_test(test) for test in record.want("tests", list))
    if not tests:
        raise ValueError("the field 'tests' is empty, expected one test or more")
    if io == "stdin" and not record.maybe("keep_bytes", bool):
        tests = tuple(map(_with_line_ends, tests))
    comparison, derived = _comparison(record)
    found = _signature(record, fn_name, tests) if fn_name else Signature((), "", ())
    derived += found.derived
    memory = record.number("memory_limit_mb", positive=True)
    time_limit = record.number("time_limit_s", positive=True)
    if time_limit is not None and time_limit < _LEAST_TIME_S:
        derived += (f"time limit {_LEAST_TIME_S} s, not {time_limit} s: no Python program keeps that",)
        time_limit = _LEAST_TIME_S
    if memory is not None and memory < _LEAST_MEMORY_MIB:
        derived += (f"memory limit {_LEAST_MEMORY_MIB} MiB, not {memory:g} MiB: no Python program keeps that",)
        memory = _LEAST_MEMORY_MIB
    return Problem(
        problem_id=record.want("id", str) and record.words("id"),
        statement=record.words("statement"),
        tests=tests,
        fn_name=fn_name or None,
        starter_code=record.words("starter_code"),
        prelude=_prelude(record),
        time_limit_s=time_limit,
        memory_limit_mib=None if memory is None else int(memory),
        comparison=comparison,
        source=record.words("source"),
        family=record.words("family"),
        signature=found.call,
        parameters=found.parameters,
        license=record.words("license"),
        title=record.words("title"),
        platform=record.words("platform"),
        difficulty=record.words("difficulty"),
        date=_date(record),
        url=record.words("url"),
        derived=derived,
    )


def _prelude(record: _Record) -> str:
    source = record.words("prelude")
    if reason := _why_no_python(source):
        raise ValueError(f"the field 'prelude' is no Python ({reason}), expected source that runs alone")
    return source


@functools.lru_cache(maxsize=64)
def _why_no_python(source: str) -> str:
    try:
        read(source)
    except ValueError as error:
        return str(error)
    return ""


def _date(record: _Record) -> str:
    text = record.maybe("date", str) or ""
    try:
        return text and datetime.date.fromisoformat(text[:10]).isoformat()
    except ValueError as error:
        raise ValueError(f"the field 'date' is {text!r:.40}, expected an ISO date such as 2024-08-01") from error


def _signature(record: _Record, fn_name: str, tests: tuple[TestCase, ...]) -> Signature:
    """The signature that a line gives, else what its starter code, its right programs and its tests say."""
    solutions = record.get("solutions")
    programs = [
        item["code"]
        for item in (solutions if isinstance(solutions, list) else [])
        if isinstance(item, dict) and item.get("label") == "accepted" and isinstance(item.get("code"), str)
    ]
    found = signature(
        fn_name,
        tests,
        starter_code=record.words("starter_code"),
        programs=programs,
        compares=record.get("checker") != "program",
        stated=record.maybe("signature", str),
    )
    parameters = record.maybe("parameters", list)
    if parameters is None:
        return found
    if not all(isinstance(name, str) and name.isidentifier() for name in parameters):
        raise ValueError(f"the field 'parameters' is {parameters!s:.60}, expected a list of Python names")
    return found._replace(parameters=tuple(parameters))


def _with_line_ends(test: TestCase) -> TestCase:
    """The test with \\n as its line ends, the last line's too: files of other systems, and sets that strip."""
    texts = (text.replace("\r\n", "\n") for text in (test.input, test.expected))
    given, expected = (text + "\n" if text and not text.endswith("\n") else text for text in texts)
    return TestCase(input=given, expected=expected)


def _test(test: Any) -> TestCase:
    if not isinstance(test, dict):
        raise ValueError(f"a test is a {type(test).__name__}, expected an object with input and output")
    record = _Record(test)
    return TestCase(input=record.want("input", str), expected=record.want("output", str))


def _comparison(record: _Record) -> tuple[Comparison, tuple[str, ...]]:
    """The comparison, and what of it the statement's prose says."""
    comparison = _stated_comparison(record)
    says = granted(record.maybe("statement", str) or "")
    derived = []
    reads_prose = comparison.kind in ("tokens", "numbers", "lines") or (
        comparison.kind == "exact" and record.get("fn_name")
    )
    if says.tolerance is not None and reads_prose:
        derived.append(f"tolerance {says.tolerance:g}, absolute or relative: {says.tolerance_words!r}")
        comparison = replace(comparison, kind="float", abs_tolerance=says.tolerance, rel_tolerance=says.tolerance)
    if says.any_case and comparison.kind != "program" and not comparison.ignore_case:
        derived.append(f"letters compare without case: {says.any_case_words!r}")
        comparison = replace(comparison, ignore_case=True)
    return comparison, tuple(derived)


def _stated_comparison(record: _Record) -> Comparison:
    checker = record.want("checker", str)
    kind, colon, tolerance = checker.partition(":")
    ignore_case = any(record.maybe(name, bool) for name in ("needs_case_insensitive", "case_insensitive"))
    if checker == "tokens" and record.maybe("exact_bytes_ok", bool) is False:
        checker, ignore_case = "numbers", True
    if checker in ("exact", "lines", "tokens", "numbers", "program"):
        program = (record.maybe("checker_program", str) or "") if checker == "program" else ""
        if checker == "program" and not program:
            raise ValueError(
                "the field 'checker_program' is missing; expected the source of check(input, expected, output)"
            )
        if program:
            _check_program(program)
        return Comparison(kind=checker, abs_tolerance=0.0, rel_tolerance=0.0, ignore_case=ignore_case, program=program)
    detail = _Record(record.maybe("checker_detail", dict) or {})
    detail.check_names(("abs", "rel"))
    try:
        both = float(tolerance)
        if kind != "float" or not 0 <= both < 1:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"the field 'checker' is {checker!r}, expected exact, lines, tokens, numbers, float:EPS or program; a "
            "problem with several right answers needs a program, it is not judged by equality"
        ) from error
    parts = [detail.number(name, positive=False) for name in ("abs", "rel")]
    absolute, relative = (part or 0.0 for part in parts) if parts != [None, None] else (both, both)
    return Comparison(kind="float", abs_tolerance=absolute, rel_tolerance=relative, ignore_case=ignore_case, program="")


def _check_program(source: str) -> None:
    """Raises ValueError where the source is no Python or makes no `check`. Nothing of it is run."""
    wanted = "the source of check(input, expected, output)"
    try:
        tree = read(source)
    except ValueError as error:
        raise ValueError(f"the field 'checker_program' is no Python ({error}); expected {wanted}") from error
    try:
        compile(tree, "checker_program", "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"the field 'checker_program' does not compile ({error}); expected {wanted}") from error
    if "check" not in module_names(tree):
        raise ValueError(f"the field 'checker_program' makes no function check; expected {wanted}")


def _solutions(record: _Record) -> list[tuple[str, str | None, str]]:
    if "problem_id" in record:
        items, problem_id = [record], record.want("problem_id", str)
    elif "code" in record and not record.get("solutions") and not {"solutions", "tests"} <= record.keys():
        record.check_names(("problem_id", "code", "label"))
        has = "; rename 'id'" if "id" in record else ""
        raise ValueError(f"the field 'problem_id' is missing beside 'code', expected the id of the problem{has}")
    else:
        problem_id = record.want("id", str)
        if not record.keys() & {"solutions", "tests"}:
            names = ", ".join(record)
            raise ValueError(f"the fields {names} are no problem's and no solution's; expected problem_id and code")
        items = []
        for item in record.maybe("solutions", list) or []:
            if not isinstance(item, dict):
                raise ValueError(f"a solution is a {type(item).__name__}, expected an object with label and code")
            items.append(_Record(item))
    found = []
    for item in items:
        item.check_names(("problem_id", "code", "label") if item is record else ("code", "label"))
        code = item.want("code", str)
        found.append((problem_id, item.maybe("label", str), code))
    return found
