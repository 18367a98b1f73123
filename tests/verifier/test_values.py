"""Arguments and results of functions, in a sandbox: nodes, keys, numbers of other types."""

import dataclasses

import pytest
from judge_rig import make_problem

from nouscoder_jax.types import Comparison, Outcome
from nouscoder_jax.verifier.verify import verify

FLOAT = Comparison(kind="float", abs_tolerance=1e-5, rel_tolerance=1e-5, ignore_case=False, program="")
EXACT = dataclasses.replace(FLOAT, kind="exact", abs_tolerance=0.0, rel_tolerance=0.0)
NUMPY = (
    "import sys, types\nnumpy = types.ModuleType('numpy')\n"
    "class generic:\n    def __init__(self, v): self.v = v\n    def item(self): return self.v\n"
    "class ndarray(generic):\n    def tolist(self): return [generic(v) for v in self.v]\n"
    "numpy.generic, numpy.ndarray = generic, ndarray\nsys.modules['numpy'] = numpy\n"
)


def judge(rig, code, test, *, fn_name="f", signature="", comparison=EXACT):
    problem = make_problem((test,))
    problem = dataclasses.replace(problem, fn_name=fn_name, signature=signature, comparison=comparison)
    return rig.run(verify(problem, code, sandbox=rig.sandbox, config=rig.config, stop_at_first_failure=True))


REVERSE = (
    "def f(head):\n    back = None\n    while head:\n        head.next, back, head = back, head, head.next\n"
    "    return back"
)
OWN = "class ListNode:\n    def __init__(self, x):\n        self.val, self.next = x, None\n"
MERGE = (
    "def f(lists: List[Optional[ListNode]]):\n    values = []\n    for head in lists:\n        while head:\n"
    "            values.append(head.val)\n            head = head.next\n    first = last = ListNode(0)\n"
    "    for v in sorted(values):\n        last.next = ListNode(v)\n        last = last.next\n    return first.next"
)
INVERT = "def f(root):\n    if root:\n        root.left, root.right = f(root.right), f(root.left)\n    return root"


@pytest.mark.parametrize(
    ("code", "signature", "test"),
    [
        (REVERSE, "(ListNode)->ListNode", ("[[1, 2, 3]]", "[3, 2, 1]")),
        (OWN + REVERSE, "(ListNode)->ListNode", ("[[1, 2, 3]]", "[3, 2, 1]")),
        (REVERSE, "(ListNode)->ListNode", ("[[]]", "[]")),
        ("from typing import *\n" + MERGE, "([ListNode])->ListNode", ("[[[1, 4], [], [2]]]", "[1, 2, 4]")),
        (INVERT, "(TreeNode)->TreeNode", ("[[4, 2, 7, 1, null, null, 9]]", "[4, 7, 2, 9, null, null, 1]")),
        (INVERT, "(TreeNode)->TreeNode", ("[[]]", "[]")),
        ("def f(root, k):\n    return root.right.left.val + k", "(TreeNode,_)->_", ("[[1, null, 2, 3], 4]", "7")),
        ("def f(a):\n    a.sort()", "(_)->0", ("[[2, 1]]", "[1, 2]")),
        ("def f(a):\n    a.sort()\n    return 5", "(_)->0", ("[[2, 1]]", "[1, 2]")),
        ("def f(head):\n    head.next = head.next.next", "(ListNode)->0", ("[[1, 2, 3]]", "[1, 3]")),
        ("def f(g):\n    return g[1][0][-2]", "({int})->_", ('[{"1": [{"-2": 5}]}]', "5")),
        ("def f(g):\n    return g[1] + g.get('1') + (1 in g)", "({int?})->_", ('[{"1": 5}]', "11")),
        (
            "def f(g):\n    g[1] += 1\n    g.setdefault(1, 9)\n    return [g.pop(1), g.pop(1, 7), len(g)]",
            "({int?})->_",
            ('[{"1": 5}]', "[6, 7, 0]"),
        ),
        (
            "def f(g):\n    del g[1]\n    g[1] = 2\n    return [len(g), g[1], 1 in g, '1' in g]",
            "({int?})->_",
            ('[{"1": 5}]', "[1, 2, true, false]"),
        ),
        ("def f(g):\n    return sorted(g)", "({int?})->_", ('[{"1": 5}]', '["1"]')),
        ("def f(g):\n    return g['1']", "", ('[{"1": 5}]', "5")),
        ("def f(n):\n    return {i: i for i in range(n)}", "", ("[2]", '{"0": 0, "1": 1}')),
    ],
)
def test_values_are_made_by_the_signature(local_rig, code, signature, test):
    verdict = judge(local_rig, code, test, signature=signature)
    assert verdict.outcome is Outcome.ACCEPTED, verdict.detail


@pytest.mark.parametrize(
    ("result", "expected", "comparison", "outcome"),
    [
        ("Fraction(5, 2)", "2.5", EXACT, Outcome.ACCEPTED),
        ("Fraction(4, 2)", "2", EXACT, Outcome.ACCEPTED),
        ("[Fraction(1, 4)]", "[0.25]", EXACT, Outcome.ACCEPTED),
        ("Fraction(1, 3)", "0.3333333333333333", EXACT, Outcome.WRONG_ANSWER),
        ("Fraction(1, 3)", "0.333333", FLOAT, Outcome.ACCEPTED),
        ("Fraction(1, 3)", "0.34", FLOAT, Outcome.WRONG_ANSWER),
        ("Decimal('2.50')", "2.5", EXACT, Outcome.ACCEPTED),
        ("Decimal('3.0')", "3", EXACT, Outcome.ACCEPTED),
        ("Decimal('0.1')", "0.1", EXACT, Outcome.WRONG_ANSWER),
        ("Decimal('0.1')", "0.1", FLOAT, Outcome.ACCEPTED),
        ("Decimal('nan')", "0.1", FLOAT, Outcome.WRONG_ANSWER),
        ("generic(3)", "3", EXACT, Outcome.ACCEPTED),
        ("ndarray([1, 2])", "[1, 2]", EXACT, Outcome.ACCEPTED),
        ("ndarray([1, 2])", "[1, 3]", EXACT, Outcome.WRONG_ANSWER),
        ("{1, 2}", "[1, 2]", EXACT, Outcome.RUNTIME_ERROR),
        ("range(2)", "[0, 1]", EXACT, Outcome.RUNTIME_ERROR),
    ],
)
def test_numbers_of_other_types_are_their_values(local_rig, result, expected, comparison, outcome):
    code = f"{NUMPY}from fractions import Fraction\nfrom decimal import Decimal\ndef f(n):\n    return {result}\n"
    verdict = judge(local_rig, code, ("[1]", expected), comparison=comparison)
    assert verdict.outcome is outcome, verdict.detail


METHOD = "class Solution:\n    def f(self, x):\n        return 2 * x\n"
FUNCTION = "def f(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("fn_name", "code", "outcome"),
    [
        ("f", FUNCTION, Outcome.ACCEPTED),
        ("f", METHOD, Outcome.ACCEPTED),
        ("Solution.f", METHOD, Outcome.ACCEPTED),
        ("Solution.f", FUNCTION, Outcome.ACCEPTED),
        ("Solution.f", "class Solution:\n    pass\n" + FUNCTION, Outcome.ACCEPTED),
        ("f", METHOD + "def f(x):\n    return 0\n", Outcome.WRONG_ANSWER),
        ("Solution.f", METHOD + "def f(x):\n    return 0\n", Outcome.ACCEPTED),
        ("Solution.f", METHOD.replace("    def", "    @staticmethod\n    def").replace("self, ", ""), Outcome.ACCEPTED),
        ("Solution.f", "f = 5", Outcome.RUNTIME_ERROR),
        ("f", "class Solution:\n    def g(self, x): pass", Outcome.RUNTIME_ERROR),
    ],
)
def test_a_class_or_a_function_whichever_is_there(local_rig, fn_name, code, outcome):
    assert judge(local_rig, code, ("[4]", "8"), fn_name=fn_name).outcome is outcome


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (NUMPY + "def f(a): return {generic(1): 2}", '{"1": 2}'),
        ("from fractions import Fraction\ndef f(a): return {Fraction(3): 2}", '{"3": 2}'),
    ],
)
def test_other_numbers_are_their_values_as_keys_too(local_rig, code, expected):
    assert judge(local_rig, code, ("[1]", expected)).outcome is Outcome.ACCEPTED


def test_a_number_that_is_an_item_of_itself_is_a_float(local_rig):
    numpy = NUMPY.replace(
        "def item(self): return self.v", "def item(self): return self\n    def __float__(self): return self.v"
    )
    assert judge(local_rig, numpy + "def f(a): return generic(4.0)", ("[1]", "4")).outcome is Outcome.ACCEPTED
