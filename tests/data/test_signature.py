"""What is known of a function from its starter code, a right program and its tests."""

import pytest

from nouscoder_jax.data.signature import signature
from nouscoder_jax.types import TestCase


def found(fn_name="f", tests=(("[1]", "1"),), *, starter="", programs=(), compares=True):
    cases = [TestCase(input=given, expected=expected) for given, expected in tests]
    return signature(fn_name, cases, starter_code=starter, programs=programs, compares=compares)


def method(parameters, returns="int", *, docstring=""):
    return f"class Solution:\n    def f(self, {parameters}) -> {returns}:\n        {docstring}"


@pytest.mark.parametrize(
    ("parameters", "returns", "test", "call"),
    [
        ("x: int", "int", ("[1]", "1"), ""),
        ("x: List[List[int]]", "List[str]", ("[[[1]]]", "[]"), ""),
        ("head: Optional[ListNode]", "Optional[ListNode]", ("[[1]]", "[1]"), "(ListNode)->ListNode"),
        ("head: 'ListNode', k: int", "'ListNode'", ("[[1], 1]", "[1]"), "(ListNode,_)->ListNode"),
        ("head: ListNode | None", "None | ListNode", ("[[1]]", "[1]"), "(ListNode)->ListNode"),
        ("x: typing.List[typing.Optional[ListNode]]", "ListNode", ("[[[1]]]", "[1]"), "([ListNode])->ListNode"),
        ("root: TreeNode", "bool", ("[[1, null, 2]]", "true"), "(TreeNode)->_"),
        ("nums: List[int]", "None", ("[[1]]", "[1]"), "(_)->0"),
        ("head: ListNode", "None", ("[[1]]", "[1]"), "(ListNode)->0"),
        ("nums: List[int]", "None", ("[[1]]", "null"), ""),
        ("g: Dict[int, List[int]]", "int", ('[{"1": []}]', "1"), "({int})->_"),
        ("g: dict[str, int]", "int", ('[{"1": 2}]', "1"), ""),
        ("g: dict", "int", ('[{"1": 2, "-3": 4}]', "1"), "({int?})->_"),
        ("g: dict", "int", ('[{"1": 2, "a": 4}]', "1"), ""),
        ("g: dict", "int", ('[{"01": 2}]', "1"), ""),
    ],
)
def test_kinds_of_arguments_and_result(parameters, returns, test, call):
    assert found("Solution.f", (test,), starter=method(parameters, returns)).call == call


def test_names_come_from_starter_code_else_from_a_right_program_else_letters():
    two = (("[1, 2]", "3"),)
    program = "def other(a): pass\ndef f(left, right):\n    return left\n"
    assert found(tests=two, starter="def f(x: int, y: int) -> int:\n", programs=[program]).parameters == ("x", "y")
    assert found(tests=two, programs=["def f(:", program]).parameters == ("left", "right")
    assert found(tests=two, programs=["def f(one): pass"]).parameters == ("a", "b")
    assert found(tests=two).parameters == ("a", "b")
    assert found("Solution.f", starter=method("n: int", docstring='"""Doc."""')).parameters == ("n",)


def test_what_is_concluded_is_told():
    (first, second) = found("Solution.f", (("[[1]]", "[1]"),), starter=method("x: List[int]", "None")).derived
    assert "first argument after the call is compared" in first and "(_)->0" in second
    assert "integers" in found(tests=(('[{"1": 2}]', "1"),)).derived[0]


@pytest.mark.parametrize("hint", ["'Node'", "Optional[Node]", "List[NestedInteger]", "Dict[int, ListNode]"])
def test_an_argument_that_json_cannot_say_is_refused_by_name(hint):
    with pytest.raises(ValueError, match=r"the argument 'x' of Solution.f is a .*no JSON value stands for"):
        found("Solution.f", (("[[1]]", "1"),), starter=method(f"x: {hint}"))


@pytest.mark.parametrize("given", ["3\n4", "5", '"ab"', '{"a": 3}', "True", "", "[1,]", "[NaN]", "[Infinity]", "null"])
def test_an_input_that_is_no_list_of_arguments_is_refused(given):
    with pytest.raises(ValueError, match=r"a test's input is .*, expected a JSON list of positional arguments"):
        found(tests=((given, "1"),))


@pytest.mark.parametrize("expected", ["True", "'abc'", "", "abc", "1\n2", "NaN", "-Infinity", "(1, 2)"])
def test_an_output_that_is_no_json_is_refused(expected):
    with pytest.raises(ValueError, match=r"a test's output is .*, expected a JSON value"):
        found(tests=(("[1]", expected),))
    assert found(tests=(("[1]", expected),), compares=False).parameters == ("a",)


def test_numbers_of_many_digits_are_json():
    assert found(tests=(("[" + "9" * 10_000 + "]", "9" * 10_000),)).call == ""


@pytest.mark.parametrize("call", ["", "()->_", "(_,{int?})->0", "([[TreeNode]],ListNode)->[ListNode]", "({int})->_"])
def test_a_call_that_is_stated_counts_whatever_the_hints_say(call):
    code = "def f(head: Node, k: int): ..."
    tests = [TestCase(input="[1, 2]", expected="1")]
    found = signature("f", tests, starter_code=code, programs=[], compares=True, stated=call)
    assert found == (("head", "k"), call, ())


@pytest.mark.parametrize(
    ("body", "call"),
    [("a.reverse()", "(_)->0"), ("a.reverse()\n    return", "(_)->0"), ("return a", ""), ("yield 1", ""),
     ("if a:\n        return a", "")],
)  # fmt: skip
def test_a_right_program_that_returns_nothing_changes_its_argument(body, call):
    programs = (f"def rev(a):\n    {body}\n",)
    assert found("rev", (("[[1, 2]]", "[2, 1]"),), programs=programs).call == call


def test_integer_keys_within_others_are_found_by_both():
    assert (
        found(starter="def f(d: Dict[str, Dict[int, int]]):", tests=(('[{"a": {"1": 2}}]', "2"),)).call == "({int?})->_"
    )
