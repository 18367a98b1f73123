"""Each reader against records as its set publishes them; the problems in them are our own."""

import base64
import json
import os
import pickle
import zlib

import pytest

from nouscoder_jax.data.problems import parse_problem, parse_solutions
from nouscoder_jax.data.readers.fields import LeftOutError, mebibytes, seconds
from nouscoder_jax.data.readers.formats import READERS

DOUBLE = "Print twice the number."
SOLUTION = "print(2 * int(input()))"
STDIN = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}
CALLS = {"inputs": [[[1, 2], 3], [[], 0]], "outputs": [[[1, 2, 3]], [[0]]], "fn_name": "push"}
STARTER = "class Solution:\n    def push(self, items: List[int], item: int) -> List[int]:\n        "


def read(name, record):
    return parse_problem(READERS[name](record))


def pairs(problem):
    return [(test.input, test.expected) for test in problem.tests]


TACO = {
    "question": DOUBLE,
    "solutions": json.dumps([SOLUTION]),
    "starter_code": "",
    "input_output": json.dumps(STDIN),
    "difficulty": "EASY",
    "raw_tags": "[]",
    "name": None,
    "source": "codeforces",
    "url": "https://example.org/1",
    "date": "2019-12-31 00:00:00",
    "time_limit": "1.5 seconds",
    "memory_limit": "256.0 megabytes",
}


def test_taco():
    problem = read("taco", TACO)
    assert pairs(problem) == [("1\n", "2\n"), ("2\n", "4\n")]
    assert (problem.statement, problem.fn_name, problem.comparison.kind) == (DOUBLE, None, "tokens")
    assert (problem.platform, problem.difficulty, problem.date) == ("codeforces", "EASY", "2019-12-31")
    assert (problem.time_limit_s, problem.memory_limit_mib) == (1.5, 256)
    assert problem.license.startswith("Apache-2.0") and problem.url == "https://example.org/1"
    assert [(one.label, one.code) for one in parse_solutions(READERS["taco"](TACO))] == [("accepted", SOLUTION)]


def test_tacos_ids_are_of_what_a_problem_says():
    same, other = read("taco", TACO | {"url": "x"}), read("taco", TACO | {"question": "Print the number."})
    assert same.problem_id == read("taco", TACO).problem_id != other.problem_id


def test_a_taco_function_has_its_arguments_and_value_unwrapped():
    problem = read("taco", TACO | {"input_output": json.dumps(CALLS), "starter_code": STARTER})
    assert problem.fn_name == "Solution.push" and problem.parameters == ("items", "item")
    assert pairs(problem) == [("[[1, 2], 3]", "[1, 2, 3]"), ("[[], 0]", "[0]")]
    plain = read("taco", TACO | {"input_output": json.dumps(CALLS)})
    assert plain.fn_name == "push"


def test_lists_of_lines_become_text():
    problem = read("taco", TACO | {"input_output": {"inputs": [["1", 2]], "outputs": [["3"]]}})
    assert pairs(problem) == [("1\n2\n", "3\n")]


def test_apps():
    record = {name: TACO[name] for name in ("question", "solutions", "input_output", "starter_code", "url")}
    problem = read("apps", record | {"problem_id": 7, "difficulty": "interview"})
    assert problem.problem_id.startswith("apps/") and problem.problem_id.endswith("-7")
    assert (problem.difficulty, len(problem.tests)) == ("interview", 2)


CASES = [{"type": "stdin_stdout", "fn_name": None, "input": "1\n", "output": "2\n"}]
CALL_CASES = [{"type": "function_call", "fn_name": "push", "input": [[1], 2], "output": [[1, 2]]}]
SYNTHETIC1 = {
    "source": "apps",
    "task_type": "verifiable_code",
    "in_source_id": "1",
    "prompt": "Solve the following coding problem using the programming language python:\n\n" + DOUBLE
    + "\n\nThe input will be given via stdin and the output should be printed to stdout by your code.\n\n"
    "Now solve the problem by providing the code.",
    "gold_standard_solution": f"```python\n{SOLUTION}\n```",
    "problem_id": "vcp_1",
    "metadata": {"difficulty": "3", "memory_limit": "0.5 GB", "time_limit": "2000 ms", "problem_url": None},
    "verification_info": json.dumps({"language": "python", "test_cases": CASES}),
}  # fmt: skip


def test_synthetic1():
    problem = read("synthetic1", SYNTHETIC1)
    assert (problem.problem_id, problem.statement, pairs(problem)) == ("synthetic1/vcp_1", DOUBLE, [("1\n", "2\n")])
    assert (problem.time_limit_s, problem.memory_limit_mib) == (2.0, 512)
    assert [one.code for one in parse_solutions(READERS["synthetic1"](SYNTHETIC1))] == [SOLUTION]
    call = read("synthetic1", SYNTHETIC1 | {"verification_info": {"language": "python", "test_cases": CALL_CASES}})
    assert (call.fn_name, pairs(call)) == ("push", [("[[1], 2]", "[1, 2]")])


def test_a_problem_for_another_language_is_left_out():
    info = {"language": "javascript", "test_cases": CASES}
    with pytest.raises(LeftOutError, match="language javascript"):
        READERS["synthetic1"](SYNTHETIC1 | {"verification_info": info})


FUNCTIONAL = [{"input": "[1]\n2", "output": "[1, 2]", "testtype": "functional"}]
PROGRAMS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


@pytest.mark.parametrize(
    ("config", "tests", "fields", "fn_name", "wanted"),
    [
        ("primeintellect", CASES, {}, None, ("1\n", "2\n")),
        ("primeintellect", CALL_CASES, {}, "push", ("[[1], 2]", "[1, 2]")),
        ("taco", STDIN, {}, None, ("1\n", "2\n")),
        ("taco", CALLS, {}, "push", ("[[1, 2], 3]", "[1, 2, 3]")),
        ("lcbv5", PROGRAMS, {}, None, ("1\n", "2\n")),
        ("lcbv5", FUNCTIONAL, {"metadata": {"func_name": "push"}, "starter_code": STARTER}, "Solution.push",
         ("[[1], 2]", "[1, 2]")),
        ("codeforces", PROGRAMS, {}, None, ("1\n", "2\n")),
    ],
)  # fmt: skip
def test_each_config_of_deepcoder_has_its_own_shape_of_tests(config, tests, fields, fn_name, wanted):
    record = {"problem": DOUBLE, "tests": json.dumps(tests), "solutions": [SOLUTION]} | fields
    problem = read(f"deepcoder-{config}", record)
    assert (problem.fn_name, problem.statement, pairs(problem)[0]) == (fn_name, DOUBLE, wanted)
    assert problem.source.endswith(f":{config}")


def test_a_deepcoder_file_read_by_the_wrong_config_is_an_error():
    record = {"problem": DOUBLE, "tests": json.dumps(STDIN)}
    with pytest.raises(ValueError, match="'tests' is"):
        READERS["deepcoder-primeintellect"](record)


def test_rlvr():
    tests = {"input": ["1\n"], "output": ["2\n"]}
    record = {"problem": DOUBLE, "problem_type": "stdin_stdout", "tests": json.dumps(tests), "fn_name": "none"}
    problem = read("rlvr", record)
    assert (problem.fn_name, pairs(problem), problem.comparison.kind) == (None, [("1\n", "2\n")], "lines")
    tests = {"input": ["[1]\n2", [[1], 2]], "output": ["[1, 2]", [[1, 2]]]}
    record = {"problem": DOUBLE, "problem_type": "func", "tests": tests, "fn_name": "push", "starter_code": STARTER}
    problem = read("rlvr", record)
    assert (problem.fn_name, pairs(problem)) == ("Solution.push", [("[[1], 2]", "[1, 2]")] * 2)


def packed(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


LIVECODEBENCH = {
    "question_title": "Double",
    "question_content": DOUBLE,
    "platform": "atcoder",
    "question_id": "abc_a",
    "contest_id": "abc",
    "contest_date": "2024-08-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(PROGRAMS),
    "private_test_cases": packed(json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}])),
    "metadata": "{}",
}


def test_livecodebench():
    problem = read("livecodebench", LIVECODEBENCH)
    assert pairs(problem) == [("1\n", "2\n"), ("2\n", "4\n")]
    assert (problem.problem_id, problem.date) == ("livecodebench/atcoder/abc_a", "2024-08-01")
    assert (problem.difficulty, problem.platform, problem.time_limit_s) == ("easy", "atcoder", 6.0)
    plain = read("livecodebench", LIVECODEBENCH | {"private_test_cases": json.dumps(PROGRAMS)})
    assert pairs(plain) == [("1\n", "2\n")] * 2


def test_a_livecodebench_function():
    fields = {"public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": packed(json.dumps(FUNCTIONAL))}
    fields |= {"metadata": json.dumps({"func_name": "push"}), "starter_code": STARTER}
    problem = read("livecodebench", LIVECODEBENCH | fields)
    assert (problem.fn_name, pairs(problem)) == ("Solution.push", [("[[1], 2]", "[1, 2]")] * 2)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    record = LIVECODEBENCH | {"private_test_cases": packed(Runs(str(tmp_path / "made")))}
    with pytest.raises(ValueError, match=r"no pickled text .an operation STACK_GLOBAL"):
        READERS["livecodebench"](record)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data", [b"Nr\x00\x00\x00\x08.", b"\x80\x04]\x94.", b"\x80\x04N.", pickle.dumps({"a": "b"}), b"\x80"]
)
def test_a_pickle_of_anything_but_one_text_is_refused_unread(data):
    private = base64.b64encode(zlib.compress(data)).decode()
    with pytest.raises(ValueError, match="private tests are"):
        READERS["livecodebench"](LIVECODEBENCH | {"private_test_cases": private})


def test_private_tests_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setattr("nouscoder_jax.data.readers.livecodebench.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="unpack to more than 1000 bytes"):
        READERS["livecodebench"](LIVECODEBENCH | {"private_test_cases": packed("x" * 10_000)})


@pytest.mark.parametrize("private", ["{", "!!", "e30=", packed([1]), packed("x")[:-8], ""])
def test_broken_private_tests_are_an_error(private):
    with pytest.raises(ValueError, match=r"private tests|JSON|Expecting"):
        READERS["livecodebench"](LIVECODEBENCH | {"private_test_cases": private})


LEETCODE = {
    "task_id": "push",
    "question_id": "1",
    "difficulty": "Easy",
    "problem_description": "Append the item.",
    "starter_code": STARTER,
    "estimated_date": "2024-08-04",
    "prompt": "from typing import *\n",
    "completion": "class Solution:\n    def push(self, items, item):\n        return items + [item]\n",
    "entry_point": "Solution().push",
    "test": "def check(candidate):\n    assert candidate(items = [1],item = 2) == [1, 2]\n"
    "    assert candidate(item = -1, items = []) == [-1]\n",
}


def test_leetcode_tests_are_read_from_the_asserts():
    problem = read("leetcode", LEETCODE)
    assert pairs(problem) == [("[[1], 2]", "[1, 2]"), ("[[], -1]", "[-1]")]
    assert (problem.fn_name, problem.prelude, problem.date) == ("Solution.push", "from typing import *\n", "2024-08-04")
    assert problem.url == "https://leetcode.com/problems/push/"


def test_leetcode_before_version_0_3_has_its_statement_in_meta():
    record = {name: LEETCODE[name] for name in ("task_id", "prompt", "completion", "entry_point", "test")}
    meta = {"question_title": "Append the item.", "lang_code": STARTER, "difficulty": "Easy", "question_id": 1}
    assert read("leetcode", record | {"meta": meta}).statement == "Append the item."


@pytest.mark.parametrize("hint", ["Optional[TreeNode]", "reeNode"])
def test_leetcode_nodes_are_known_by_the_starter_code_or_by_the_asserts(hint):
    starter = f"class Solution:\n    def f(self, root: {hint}, k: int) -> {hint}:\n        "
    call = "candidate(root = tree_node([1, None, 2]), k = 1)"
    test = f"def check(candidate):\n    assert is_same_tree({call}, tree_node([2]))"
    record = LEETCODE | {"starter_code": starter, "test": test, "entry_point": "Solution().f"}
    problem = read("leetcode", record)
    assert (problem.signature, pairs(problem)) == ("(TreeNode,_)->TreeNode", [("[[1, null, 2], 1]", "[2]")])


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("assert candidate(items = [1], other = 2) == 3", ValueError, "gives items, other, the function takes items"),
        ("assert candidate(items = open('x'), item = 2) == 3", LeftOutError, "no literal"),
        ("assert abs(candidate(items = [1], item = 2) - 3) < 1e-5", LeftOutError, "no assert of equality"),
        ("assert candidate(items = [1], item = {1, 2}) == 3", LeftOutError, "JSON cannot say"),
        ("assert candidate(", ValueError, "never closed"),
        ("assert sorted([2, 1]) == [1, 2]", LeftOutError, "no assert of equality"),
    ],
)
def test_other_leetcode_tests(body, error, words):
    with pytest.raises(error, match=words):
        READERS["leetcode"](LEETCODE | {"test": f"def check(candidate):\n    {body}\n"})


def package(folder, about="", **files):
    files = {
        "problem.yaml": f"source: Here\nlicense: cc by-sa\nlimits:\n  memory: 512\n{about}",
        "problem_statement/problem.sv.tex": "Skriv.",
        "problem_statement/problem.en.tex": DOUBLE,
        "data/sample/1.in": "1\n",
        "data/sample/1.ans": "2\n",
        "data/secret/a/2.in": "2\n",
        "data/secret/a/2.ans": "4\n",
        "submissions/accepted/ok.py": SOLUTION,
        "submissions/accepted/old.py": "print 1",
        "submissions/wrong_answer/no.py": "print(0)",
        ".timelimit": "3",
    } | files
    for name, words in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(words)
    return {"folder": str(folder)}


def test_kattis(tmp_path):
    record = package(tmp_path / "contest/double")
    problem = read("kattis", record)
    assert (problem.problem_id, problem.statement, problem.license) == ("kattis/contest/double", DOUBLE, "cc by-sa")
    assert pairs(problem) == [("1\n", "2\n"), ("2\n", "4\n")]
    assert (problem.time_limit_s, problem.memory_limit_mib) == (3.0, 512)
    assert problem.comparison.kind == "tokens" and problem.comparison.ignore_case
    solutions = [(one.label, one.code) for one in parse_solutions(READERS["kattis"](record))]
    assert solutions == [("accepted", SOLUTION), ("wrong_answer", "print(0)")]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("float_tolerance 1e-6", ("float", 1e-6, 1e-6, True)),
        ("float_absolute_tolerance 1e-4 case_sensitive", ("float", 1e-4, 0.0, False)),
        ("space_change_sensitive case_sensitive", ("exact", 0.0, 0.0, False)),
    ],
)
def test_kattis_flags_of_the_default_validator(tmp_path, flags, wanted):
    found = read("kattis", package(tmp_path / "p", f"validator_flags: {flags}\n")).comparison
    assert (found.kind, found.abs_tolerance, found.rel_tolerance, found.ignore_case) == wanted


@pytest.mark.parametrize(
    ("about", "files", "reason"),
    [
        ("validation: custom interactive\n", {}, "interactive"),
        ("type: interactive\n", {}, "interactive"),
        ("type: submit-answer\n", {}, "of type submit-answer"),
        ("type: [pass-fail, multi-pass]\n", {}, "of type multi-pass"),
        ("validation: custom\n", {}, "validator"),
        ("", {"output_validators/check.py": "1"}, "validator"),
    ],
)
def test_kattis_packages_that_equality_does_not_judge_are_left_out(tmp_path, about, files, reason):
    with pytest.raises(LeftOutError, match=reason):
        READERS["kattis"](package(tmp_path / "p", about, **files))


def test_a_broken_kattis_package_is_an_error(tmp_path):
    record = package(tmp_path / "p", "limits: [")
    with pytest.raises(ValueError, match=r"problem.yaml is no YAML"):
        READERS["kattis"](record)
    record = package(tmp_path / "q")
    (tmp_path / "q/data/secret/a/2.ans").unlink()
    with pytest.raises(ValueError, match=r"2.in has no 2.ans"):
        READERS["kattis"](record)


OURS = {"id": "a", "statement": "Add.", "io": "function", "fn_name": "f", "checker": "exact"}


@pytest.mark.parametrize(
    ("encoding", "given", "expected", "wanted"),
    [
        ("lines", "3\n4", "7", ("[3, 4]", "7")),
        ("wrapped", "[4]", "[true]", ("[4]", "true")),
        ("object", '{"a": 3, "b": 4}', "7", ("[3, 4]", "7")),
        ("python", "[4, True]", "'abc'", ("[4, true]", '"abc"')),
        ("lines-or-wrapped", [3, 4], "7", ("[3, 4]", "7")),
    ],
)
def test_our_own_files_in_another_sets_encoding(encoding, given, expected, wanted):
    record = OURS | {"tests": [{"input": given, "output": expected}]}
    assert pairs(read(f"nouscoder-{encoding}", record)) == [wanted]


def test_our_own_files_with_tests_in_two_lists():
    tests = {"inputs": [["1", "2"]], "outputs": ["3"]}
    record = OURS | {"io": "stdin", "fn_name": None, "checker": "tokens", "tests": tests}
    assert pairs(read("nouscoder-wrapped", record)) == [("1\n2\n", "3\n")]
    with pytest.raises(LeftOutError, match="no tests"):
        READERS["nouscoder-wrapped"](record | {"tests": {"inputs": [], "outputs": []}})
    with pytest.raises(ValueError, match="'tests' is 7"):
        READERS["nouscoder-wrapped"](record | {"tests": 7})


@pytest.mark.parametrize("tests", [None, "", {"inputs": [], "outputs": []}])
def test_a_problem_without_tests_is_left_out(tests):
    with pytest.raises(LeftOutError, match="no tests"):
        READERS["taco"](TACO | {"input_output": tests})


@pytest.mark.parametrize(
    "fields",
    [
        {"input_output": "{"},
        {"input_output": "[]"},
        {"input_output": {"inputs": ["1"], "outputs": []}},
        {"input_output": {"inputs": [1], "outputs": ["2"]}},
        {"input_output": {"inputs": [None], "outputs": ["2"]}},
        {"input_output": {"inputs": ["1"], "outputs": [["2"]], "fn_name": "f"}},
        {"input_output": {"inputs": [[1]], "outputs": [1], "fn_name": "f"}},
        {"question": None},
        {"question": 7},
        {"solutions": '{"a": 1}'},
        {"solutions": [1]},
        {"time_limit": "soon"},
        {"memory_limit": "7 bananas"},
        {"date": "yesterday"},
    ],
)
def test_a_broken_record_is_an_error_and_no_problem(fields):
    with pytest.raises(ValueError, match=r"expected|lists of one length|'date'"):
        read("taco", TACO | fields)


@pytest.mark.parametrize("name", [name for name in READERS if name != "kattis"])
@pytest.mark.parametrize("record", [{}, dict.fromkeys(TACO | SYNTHETIC1 | LIVECODEBENCH | LEETCODE)])
def test_an_empty_record_ends_no_reader_with_another_error(name, record):
    with pytest.raises((ValueError, LeftOutError)):
        read(name, record)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(2, 2.0), ("2 seconds", 2.0), ("1.5s", 1.5), ("500 ms", 0.5), (None, None), ("", None), (0, None),
     ({"seconds": 1, "nanos": 500000000}, 1.5), ("2.0 sec.", 2.0)],
)  # fmt: skip
def test_time_limits(given, wanted):
    assert seconds(given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"), [(256, 256), ("256.0 megabytes", 256), ("1 GB", 1024), (None, None), ("65536 KB", 64)]
)
def test_memory_limits(given, wanted):
    assert mebibytes(given) == wanted
