import gzip
import json

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.data.problems import read_problems, read_solutions, write_problems

RECORD = {
    "id": "a/1",
    "source": "here",
    "license": "Apache-2.0",
    "statement": "Add.",
    "io": "stdin",
    "fn_name": None,
    "tests": [{"input": "1 2\n", "output": "3\n", "kind": "sample"}],
    "time_limit_s": 2.0,
    "memory_limit_mb": 256,
    "checker": "tokens",
    "solutions": [
        {"language": "python3", "label": "accepted", "code": "x"},
        {"language": "python3", "label": "rejected", "code": "y"},
    ],
}


FUNCTION = {"id": "f", "io": "function", "fn_name": "Solution.f", "checker": "exact"}
FUNCTION |= {"tests": [{"input": "[[1, 2], 1]", "output": "[2]"}]}


def write(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_a_record_becomes_a_problem(tmp_path):
    (problem,) = read_problems(write(tmp_path / "p.jsonl", RECORD))
    assert (problem.problem_id, problem.statement, problem.fn_name, problem.family) == ("a/1", "Add.", None, "")
    assert (problem.time_limit_s, problem.memory_limit_mib) == (2.0, 256)
    assert problem.tests[0].input == "1 2\n" and problem.tests[0].expected == "3\n"
    assert problem.comparison.kind == "tokens" and not problem.comparison.ignore_case


def test_a_missing_statement_is_empty_text_and_missing_limits_are_none(tmp_path):
    record = RECORD | {"statement": None, "time_limit_s": None, "memory_limit_mb": None}
    (problem,) = read_problems(write(tmp_path / "p.jsonl", record))
    assert (problem.statement, problem.time_limit_s, problem.memory_limit_mib) == ("", None, None)


@pytest.mark.parametrize(
    ("fields", "absolute", "relative"),
    [
        ({"checker": "float:1e-6"}, 1e-6, 1e-6),
        ({"checker": "float:0.0005", "checker_detail": {"abs": 0.0005, "rel": None}}, 0.0005, 0.0),
        ({"checker": "float:1e-4", "checker_detail": {"abs": None, "rel": None}}, 1e-4, 1e-4),
    ],
)
def test_tolerances_come_from_the_checker_and_its_detail(tmp_path, fields, absolute, relative):
    (problem,) = read_problems(write(tmp_path / "p.jsonl", RECORD | fields))
    assert (problem.comparison.abs_tolerance, problem.comparison.rel_tolerance) == (absolute, relative)


def test_labelled_solutions_are_numbered_within_their_problem(tmp_path):
    solutions = read_solutions(write(tmp_path / "p.jsonl", RECORD, RECORD | {"id": "a/2"}))
    assert [(s.problem_id, s.solution_index, s.label, s.code) for s in solutions] == [
        ("a/1", 0, "accepted", "x"),
        ("a/1", 1, "rejected", "y"),
        ("a/2", 0, "accepted", "x"),
        ("a/2", 1, "rejected", "y"),
    ]


def test_a_file_of_solutions_needs_no_labels(tmp_path):
    lines = [{"problem_id": "a/1", "code": "x"}, {"problem_id": "a/1", "code": "y", "label": "accepted"}]
    solutions = read_solutions(write(tmp_path / "s.jsonl", *lines))
    assert [(s.solution_index, s.label) for s in solutions] == [(0, None), (1, "accepted")]


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_what_is_written_reads_back_the_same(tmp_path, name):
    source = write(
        tmp_path / "source.jsonl",
        RECORD | {"family": "sums", "prelude": "import math", "checker": "float:1e-5", "needs_case_insensitive": True},
        RECORD | FUNCTION | {"starter_code": "class"},
        RECORD | FUNCTION | {"id": "g", "starter_code": "def f(self, head: ListNode, n: int) -> None:"},
    )
    problems, solutions = read_problems(source), read_solutions(source)
    write_problems(tmp_path / name, problems, solutions=solutions)
    assert read_problems(tmp_path / name) == problems
    assert read_solutions(tmp_path / name) == solutions


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "no JSON"),
        ("[]", "expected an object"),
        ({k: v for k, v in RECORD.items() if k != "tests"}, "'tests' is missing"),
        ({k: v for k, v in RECORD.items() if k != "checker"}, "'checker' is missing"),
        (RECORD | {"tests": []}, "'tests' is empty"),
        (RECORD | {"tests": [{"input": "1"}]}, "'output' is missing"),
        (RECORD | {"tests": [{"input": "1", "output": 2}]}, "'output' is a int"),
        (RECORD | {"checker": "custom"}, "'checker' is 'custom'"),
        (RECORD | {"checker": "float:nan"}, "'checker' is 'float:nan'"),
        (RECORD | {"io": "files"}, "'io' is 'files'"),
        (RECORD | {"io": "function"}, "'fn_name' is None"),
        (RECORD | {"time_limit_s": "2"}, "'time_limit_s' is a str"),
        (RECORD | {"time_limit_s": 0}, "'time_limit_s' is 0"),
        (RECORD, "also on line 1"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line, part):
    path = write(tmp_path / "p.jsonl", RECORD, line)
    with pytest.raises(UserError) as caught:
        read_problems(path)
    text = str(caught.value)
    assert "p.jsonl" in text and "line 2" in text and part in text and "\n" not in text


def test_files_that_are_not_problem_files_are_one_clear_line(tmp_path):
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(RECORD).encode() * 100)[:60])
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    text = write(tmp_path / "text.jsonl.gz", RECORD)
    empty = write(tmp_path / "empty.jsonl")
    for path in (tmp_path / "missing.jsonl", cut, binary, text, empty, tmp_path):
        with pytest.raises(UserError) as caught:
            read_problems(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"tests": None}, "'tests' is null, expected a list"),
        ({"tests": "[]"}, "'tests' is a str, expected a list"),
        ({"tests": {"inputs": [], "outputs": []}}, "'tests' is a dict, expected a list"),
        ({"tests": []}, "'tests' is empty"),
        ({"tests": [None]}, "a test is a NoneType"),
        ({"tests": [{"input": None, "output": "1"}]}, "'input' is null, expected text"),
        ({"tests": [{"input": "1", "output": 1}]}, "'output' is a int, expected text"),
        ({"id": None}, "'id' is null, expected text"),
        ({"io": None}, "'io' is null, expected text"),
        ({"checker": None}, "'checker' is null, expected text"),
        ({"statement": ["a"]}, "'statement' is a list, expected text"),
        *(
            (FUNCTION | {"signature": text}, "'signature' is ")
            for text in ("ListNode->ListNode", "(Nonsense)->[x", "(_)", "()->0,", "f(_)->_")
        ),
        *((FUNCTION | {"parameters": names}, "'parameters' is ") for names in ([1], [None], ["<|im_end|>"], ["a b"])),
        ({"checker": "program", "checker_program": "def check(a, b:"}, "'checker_program' is no Python (line 1: "),
        ({"checker": "program", "checker_program": "\0"}, "'checker_program' is no Python ("),
        (
            {"checker": "program", "checker_program": "def chek(a, b, c): ..."},
            "'checker_program' makes no function check",
        ),
        ({"statement": "\ud800"}, "'statement' is no Unicode text"),
        ({"checker": "float:nan"}, "'checker' is 'float:nan'"),
        ({"checker": "float:inf"}, "'checker' is 'float:inf'"),
        ({"checker": "float:-1e-6"}, "'checker' is 'float:-1e-6'"),
        ({"checker": "float:"}, "'checker' is 'float:'"),
        *(
            ({"checker": "float:1e-6", "checker_detail": {"abs": value}}, "'abs' is ")
            for value in (-1, float("nan"), float("inf"), 10**400, "1e-6", True)
        ),
        *(
            ({name: value}, f"{name!r} is ")
            for name in ("time_limit_s", "memory_limit_mb")
            for value in (0, -1, float("nan"), float("inf"), 10**400, "2", True, [2])
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_line(tmp_path, fields, part):
    path = write(tmp_path / "p.jsonl", RECORD | {"id": "first"}, RECORD | fields)
    with pytest.raises(UserError) as error:
        read_problems(path)
    assert f"{path}, line 2: " in str(error.value) and part in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("statment", "statement"), ("time_limit", "time_limit_s"), ("memory_limit_mib", "memory_limit_mb"),
     ("solution", "solutions"), ("starter", "starter_code"), ("test", "tests")],
)  # fmt: skip
def test_a_name_that_is_nearly_a_field_is_told_and_others_are_left_alone(tmp_path, wrong, right):
    others = {"statement_format": 1, "time_limit_source": 2, "solutions_unreproduced": [], "title": "A", "tags": 3}
    line = {name: value for name, value in (RECORD | others).items() if name != right} | {wrong: "x"}
    with pytest.raises(
        UserError, match=rf"line 1: the field '{wrong}' is unknown, and '{right}' is missing; rename it"
    ):
        read_problems(write(tmp_path / "p.jsonl", line))
    assert read_problems(write(tmp_path / "both.jsonl", RECORD | others | {right: RECORD.get(right)} | {wrong: "x"}))


@pytest.mark.parametrize("source", ["def check(a, b, c): ...", "from math import isclose as check", "check = max"])
def test_a_checker_may_be_made_in_any_way(tmp_path, source):
    line = RECORD | {"checker": "program", "checker_program": source}
    assert read_problems(write(tmp_path / "p.jsonl", line))[0].comparison.program == source


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (
            {"id": "a", "code": "1"},
            "'problem_id' is missing beside 'code', expected the id of the problem; rename 'id'",
        ),
        ({"code": "1"}, "'problem_id' is missing beside 'code', expected the id of the problem; mend"),
        ({"problemid": "a", "code": "1"}, "'problemid' is unknown, and 'problem_id' is missing; rename it"),
    ],
)
def test_a_solution_without_its_problem_is_not_passed_over(tmp_path, line, part):
    path = write(tmp_path / "s.jsonl", {"problem_id": "a", "code": "1"}, line)
    with pytest.raises(UserError) as error:
        read_solutions(path)
    assert f"{path}, line 2: " in str(error.value) and part in str(error.value)


def test_the_readmes_problem_is_one(tmp_path, root):
    text = (root / "README.md").read_text()
    path = tmp_path / "p.jsonl"
    path.write_text(text.partition("```json\n")[2].partition("```")[0].replace("\n", "") + "\n")
    (found,), (solution,) = read_problems(path), read_solutions(path)
    assert found.statement and found.time_limit_s and found.tests and solution.label == "accepted"
    assert found.derived == ()


@pytest.mark.parametrize(
    ("solutions", "part"),
    [
        ([None], "a solution is a NoneType"),
        ([{"label": "accepted", "code": None}], "'code' is null, expected text"),
        ("[]", "'solutions' is a str, expected a list"),
    ],
)
def test_solutions_that_cannot_be_are_refused_by_line(tmp_path, solutions, part):
    path = write(tmp_path / "p.jsonl", RECORD | {"solutions": solutions})
    with pytest.raises(UserError) as error:
        read_solutions(path)
    assert f"{path}, line 1: " in str(error.value) and part in str(error.value)


def test_a_limit_that_no_program_keeps_is_raised_and_told(tmp_path):
    (problem,) = read_problems(write(tmp_path / "p.jsonl", RECORD | {"time_limit_s": 0.001, "memory_limit_mb": 4}))
    assert (problem.time_limit_s, problem.memory_limit_mib) == (0.1, 16)
    assert "0.001" in problem.derived[0] and "not 4 MiB" in problem.derived[1]


def test_line_ends_are_those_of_python_and_the_last_line_has_one(tmp_path):
    tests = [
        {"input": "1\r\nab\r\n", "output": "1\r\n2"},
        {"input": "", "output": ""},
        {"input": "a\rb", "output": "x\n"},
    ]
    read = read_problems(write(tmp_path / "p.jsonl", RECORD | {"tests": tests}))[0].tests
    assert [(t.input, t.expected) for t in read] == [("1\nab\n", "1\n2\n"), ("", ""), ("a\rb\n", "x\n")]
    (kept,) = read_problems(write(tmp_path / "p.jsonl", RECORD | {"tests": tests, "keep_bytes": True}))
    assert [(t.input, t.expected) for t in kept.tests] == [(t["input"], t["output"]) for t in tests]
    write_problems(tmp_path / "again.jsonl", [kept], solutions=[])
    assert read_problems(tmp_path / "again.jsonl") == [kept]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("timeLimit", "time_limit_s"), ("time-limit-s", "time_limit_s"), ("memory_mb", "memory_limit_mb"),
     ("statement_text", "statement"), ("Tests", "tests"), ("test_cases", "tests"), ("function_name", "fn_name"),
     ("fname", "fn_name"), ("ignore_case", "needs_case_insensitive"), ("params", "parameters")],
)  # fmt: skip
def test_what_others_call_a_field_is_told(tmp_path, wrong, right):
    line = {name: value for name, value in RECORD.items() if name != right} | {wrong: RECORD.get(right, 1)}
    with pytest.raises(UserError, match=rf"the field '{wrong}' is unknown, and '{right}' is missing"):
        read_problems(write(tmp_path / "p.jsonl", line))


@pytest.mark.parametrize(
    "line",
    [
        RECORD | {"solutions": [{"lable": "accepted", "code": "x"}]},
        RECORD | {"solutions": [{"Label": "accepted", "code": "x"}]},
        {"problem_id": "a", "code": "x", "lable": "accepted"},
        {"id": "a", "program": "x"},
        {"id": "a", "solution": "x"},
        {"id": "a", "cod": "x"},
        {"id": "a", "code": "x", "solutions": []},
    ],
)
def test_a_program_is_never_dropped_for_a_slip_in_a_name(tmp_path, line):
    with pytest.raises(UserError, match="line 1: the field"):
        read_solutions(write(tmp_path / "s.jsonl", line))


def test_names_within_checker_detail_count_too(tmp_path):
    line = RECORD | {"checker": "float:1e-6", "checker_detail": {"absolute": 1e-3}}
    with pytest.raises(UserError, match="'absolute' is unknown, and 'abs' is missing"):
        read_problems(write(tmp_path / "p.jsonl", line))


@pytest.mark.parametrize(
    "program",
    [
        "def check(i, e, o):\n    return True\nreturn check",
        "def check(i, e, o):\n    nonlocal x\n    return True",
        "class A:\n    def check(i, e, o): return True",
        "def f():\n    def check(i, e, o): return True",
        "print(check)",
    ],
)
def test_a_checker_that_cannot_be_one_is_refused_at_load(tmp_path, program):
    line = RECORD | {"checker": "program", "checker_program": program}
    with pytest.raises(UserError, match="line 1: the field 'checker_program'"):
        read_problems(write(tmp_path / "p.jsonl", line))


def test_a_prelude_that_is_no_python_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the field 'prelude' is no Python .*never closed"):
        read_problems(write(tmp_path / "p.jsonl", RECORD | {"prelude": "from math import ("}))


@pytest.mark.parametrize(
    ("starter", "given", "expected", "told"),
    [
        ("def f(root: 'TreeNode', p: 'TreeNode'):", "[[6, 2, 8], 2]", "1", "the argument 'p' of f is a TreeNode"),
        ("def f(root: TreeNode) -> TreeNode:", "[[6, 2, 8]]", "6", "the result of f is a TreeNode"),
        ("def f(node: ListNode):", "[5]", "5", "the argument 'node' of f is a ListNode"),
        ("def f(a, b):", "[1]", "1", "gives 1 arguments, and f of the starter code takes 2"),
        ("def f(a):", "[1, 2]", "1", "gives 2 arguments, and f of the starter code takes 1"),
    ],
)
def test_a_call_that_no_program_can_answer_is_refused(tmp_path, starter, given, expected, told):
    line = FUNCTION | {"fn_name": "f", "starter_code": starter, "tests": [{"input": given, "output": expected}]}
    with pytest.raises(UserError, match=told):
        read_problems(write(tmp_path / "p.jsonl", line))


@pytest.mark.parametrize("starter", ["def f(a, b=1):", "def f(*a):", "def f(a, *b):", "def f(a):"])
def test_a_call_that_the_starter_code_takes_is_kept(tmp_path, starter):
    line = FUNCTION | {"fn_name": "f", "starter_code": starter, "tests": [{"input": "[1]", "output": "1"}]}
    assert len(read_problems(write(tmp_path / "p.jsonl", line))) == 1


def test_lines_with_a_tolerance_are_compared_with_it(tmp_path):
    statement = "Print the ratio. Your answer is accepted if its error is at most 10^-6."
    (problem,) = read_problems(write(tmp_path / "p.jsonl", RECORD | {"checker": "lines", "statement": statement}))
    assert (problem.comparison.kind, problem.comparison.abs_tolerance) == ("float", 1e-6)
