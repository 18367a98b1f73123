"""Where a prelude goes: before a program's first statement, after what Python wants first."""

import subprocess
import sys

import pytest

from nouscoder_jax.verifier.prelude import with_prelude

PRELUDE = "from typing import *\nfrom math import *\nfrom operator import *\nimport collections\n"
BODY = "def f(x: List[int]) -> int:\n    return pow(2, sum(x), 1000) + collections.Counter(x)[1]\n"


def run(prelude, program):
    space = {"__name__": "program"}
    exec(compile(with_prelude(prelude, program), "program.py", "exec", dont_inherit=True), space)
    return space


@pytest.mark.parametrize(
    "head",
    [
        "",
        "from __future__ import annotations\n",
        "from __future__ import annotations, \\\n    generator_stop\n",
        "from __future__ import (\n    annotations,\n    generator_stop,  # both\n)\n",
        "from  __future__  import annotations\n",
        "from __future__ import annotations; import sys\n",
        "from __future__ import annotations ;x = 1\n",
        "from __future__ import annotations  # é\n",
        "from __future__ import annotations\nfrom __future__ import generator_stop\n",
        "# -*- coding: latin-1 -*-\nfrom __future__ import annotations\n",
        '"""Doc.\n\nfrom __future__ import nothing\n"""\nfrom __future__ import annotations\n',
        "'é'; from __future__ import annotations; import sys\n",
        "\ufefffrom __future__ import annotations\n",
        "from __future__ import annotations\r\nimport sys\r\n",
        "\n\n# a comment\nfrom __future__ import annotations\n",
        "s = '''\nfrom __future__ import annotations\n'''\n",
    ],
)
def test_a_program_runs_under_its_prelude(head):
    space = run(PRELUDE, head + BODY)
    assert space["f"]([1, 2]) == 8 + 1
    if head.startswith("s ="):
        assert space["s"] == "\nfrom __future__ import annotations\n"
    if "import sys" in head:
        assert "sys" in space
    if "x = 1" in head:
        assert space["x"] == 1


def test_a_future_that_is_asked_for_is_there():
    assert run(PRELUDE, "from __future__ import annotations\ndef f(x: No): pass\n")["f"].__annotations__ == {"x": "No"}


def test_without_a_prelude_nothing_is_changed():
    assert with_prelude("", "\ufeffx") == "\ufeffx"


@pytest.mark.parametrize(
    ("prelude", "expression", "value"),
    [
        ("from math import *", "pow(2, 10, 1000)", 24),
        ("from operator import *", "abs(-1), pow(2, 10, 1000)", (1, 24)),
        ("if True:\n    from math import *", "pow(2, 10, 1000)", 24),
        ("from math import *\ninput = len", "pow(2, 10, 1000), input('abc')", (24, 3)),
        ("input = len\nfrom math import *", "pow(2, 10, 1000), input('abc')", (24, 3)),
        ("from math import *\ndef sum(x): return 5", "sum([1]), pow(2, 10, 1000)", (5, 24)),
        ("from math import pow", "pow(2, 10)", 1024.0),
        ("from math import *\nfrom math import pow as p", "pow(2, 10, 1000)", 24),
        ("from math import *", "gcd(4, 6)", 2),
    ],
)
def test_a_star_import_hides_no_builtin_and_names_stay(prelude, expression, value):
    assert run(prelude, f"found = {expression}\n")["found"] == value


def test_a_program_that_is_no_python_stays_the_programs_fault():
    with pytest.raises(SyntaxError):
        run(PRELUDE, "from __future__ import annotations\ndef f(:\n")


@pytest.mark.parametrize(
    "prelude",
    [
        "import sys\nfrom math import *\ninput = sys.stdin.readline",
        "from math import *\ndef max(*a): return a[0]",
        "from itertools import *\nmap = map",
        "from math import *\nclass Node:\n    def max(self): return 1\n    sum = 2",
    ],
)
def test_the_bare_python_of_a_sandbox_has_all_that_is_put_before_a_program(prelude):
    program = with_prelude(prelude, "print(pow(2, 10, 1000), sum([1, 2]))")
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("24 3\n", "")
