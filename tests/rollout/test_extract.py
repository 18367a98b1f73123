"""The program that is taken out of odd completions: tests/rollout/odd_completions.json and these."""

import json
import time
from pathlib import Path

import pytest

from nouscoder_jax.rollout.extract import extract_program, make_extract, published_program
from nouscoder_jax.rollout.thinking import answer_of_text
from nouscoder_jax.types import Completion, Prompt

ODD = json.loads((Path(__file__).parent / "odd_completions.json").read_text())
P = "n = int(input())\nprint(n * 2)\n"
BLOCK = f"```python\n{P}```\n"
ADD = "def add(a, b):\n    return a + b\n"
FENCED_TEXT = 's = """\n```\nx\n```\n"""\nprint(s)\n'


@pytest.mark.parametrize("odd", ODD, ids=[odd["name"] for odd in ODD])
def test_an_odd_completion(odd):
    answer = answer_of_text(odd["text"], opened="opened by the template" in odd["name"])
    program = extract_program(answer, ended="cut" not in odd["name"])
    if odd["want"] == "both":
        assert program == "def f(n):\n    return 2 * n\n\nprint(f(int(input())))\n"
    else:
        assert program == odd["want"]


@pytest.mark.parametrize(
    ("text", "program"),
    {
        "an example call": (f"```python\n{ADD}```\nUse:\n```python\nprint(add(1, 2))\n```\n", ADD),
        "an example call, no tag": (f"```python\n{ADD}```\nUse:\n```\nprint(add(1, 2))\n```\n", ADD),
        "a console": (f"{BLOCK}```console\n$ python main.py\n8\n```\n", P),
        "an interpreter": (f"{BLOCK}```\n>>> f(2)\n4\n```\n", P),
        "words as output": (f"{BLOCK}```\nYES\nNO\n```\n", P),
        "an assignment as output": (f"{BLOCK}```\nx = 5\n```\n", P),
        "another language that is Python too": (f"{BLOCK}```js\nprint(2)\n```\n", P),
        "data tagged python": (f"{BLOCK}```python\n{{'a': 1}}\n```\n", P),
        "a stray fence first": (f"```\nLet us go.\n{BLOCK}", P),
        "a stray fence between": (f"```python\nprint(0)\n```\n```\n\nFinal:\n{BLOCK}", P),
        "a glued fence before": (f"```python\nprint(0)```\n\nFinal:\n{BLOCK}", P),
        "a glued fence last": (f"```python\nprint(0)\n```\nFinal:\n```python\n{P.rstrip()}```", P),
        "a glued fence and words": (f"```python\n{P.rstrip()}``` done\n", P),
        "indented, no list": ("    ```python\n    n = int(input())\n    print(n * 2)\n    ```\n", P),
        "a list in a list": ("1. a\n   - b\n\n     ```python\n     n = int(input())\n     print(n * 2)\n     ```\n", P),
        "a quote in a list": ("- x\n  > ```python\n  > n = int(input())\n  > print(n * 2)\n  > ```\n", P),
        "a list, lines at its edge": ("1. So:\n   ```python\nn = int(input())\nprint(n * 2)\n```\n", P),
        "all on one line": ("```python print(1)```", "print(1)\n"),
        "code behind the tag": ("```python n = int(input())\nprint(n * 2)\n```\n", P),
        "options behind the tag": (f'```python title="main.py" linenums="1"\n{P}```\n', P),
        "a path behind the tag": (f"```python:main.py\n{P}```\n", P),
        "a version in the tag": (f"```python3.11\n{P}```\n", P),
        "any other tag, nothing else": (f"```code\n{P}```\n", P),
        "tildes around back-ticks": (f"~~~python\n{FENCED_TEXT}~~~\n", FENCED_TEXT),
        "more back-ticks outside": (f"````python\n{FENCED_TEXT}````\n", FENCED_TEXT),
        "fences in a text, an earlier block": (f"```python\nprint(0)\n```\n```python\n{FENCED_TEXT}```\n", FENCED_TEXT),
        "a whole block in a text": (
            '```python\ns = """\n```python\nprint(0)\n```\n"""\nprint(s)\n```\n',
            's = """\n```python\nprint(0)\n```\n"""\nprint(s)\n',
        ),
        "a block in markdown": (f"````markdown\nThe answer\n{BLOCK}````\n", P),
        "HTML around it": (f"<details>\n<summary>x</summary>\n{BLOCK}</details>", P),
        "NUL, form feed": ("```python\nprint('\0')\n\x0cprint(2)\n```", "print('\0')\n\x0cprint(2)\n"),
        "blanks in a text": ("```python\ns = '''a  \n'''\nprint(s)\n```", "s = '''a  \n'''\nprint(s)\n"),
        "an escaped line end in it": ("```python\nprint('a\\nb')\n```", "print('a\\nb')\n"),
        "a broken program": ("```python\ndef f(:\n```\n", "def f(:\n"),
        "a broken program, no tag": ("```\nimport sys\ndef f(:\n```\n", "import sys\ndef f(:\n"),
        "nothing": ("", None),
        "words": ("I cannot solve `print(1)`.", None),
        "only a summary": ("```text\nO(n)\n```\n", None),
        "only a sample": ("```\n3\n1 2 3\n```\n", None),
        "only a placeholder": ("```python\n# YOUR CODE HERE\n```\n", None),
    }.values(),
)
def test_what_is_taken(text, program):
    assert extract_program(text, ended=True) == program


@pytest.mark.parametrize(
    "sample", ["input: 4\noutput: 8", "input = 4\noutput = 8", "input", "open", "print", "f(2) == 4"]
)
def test_a_sample_below_the_program_is_not_the_program(sample):
    assert extract_program(f"{BLOCK}Sample:\n```\n{sample}\n```\n", ended=True) == P


def blocks(*sources):
    return "And\n".join(f"```python\n{source}\n```\n" for source in sources)


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (["import sys", "def f(x):\n    return 2 * x", "print(f(int(sys.stdin.read())))"], [0, 1, 2]),
        (["def g(x): return x", "def f(x): return x", "print(g(f(int(input()))))"], [0, 1, 2]),
        (["def g(x): return x", "def f(x): return g(x)", "print(f(int(input())))"], [0, 1, 2]),
        (["import sys; data = sys.stdin.read().split()", "print(int(data[0]) * 2)"], [0, 1]),
        (["def f(x): return 2 * x", "print(f(2))"], [0]),
        (["def old(x): return 0", "def f(x): return x", "print(f(int(input())))"], [1, 2]),
        (["exec(__import__('sys').stdin.read())"], [0]),
    ],
)
def test_blocks_that_need_one_another_are_one_program(sources, wanted):
    program = extract_program(blocks(*sources), ended=True)
    assert program is not None
    assert [line for line in program.split("\n") if line] == [
        line for place in wanted for line in sources[place].split("\n")
    ]


def test_a_command_line_that_writes_a_program_is_not_one():
    assert extract_program("```bash\ncat > a.py <<EOF\nprint(1)\nEOF\n```\n", ended=True) is None


def test_of_a_completion_that_was_cut_only_closed_blocks_count():
    assert extract_program(BLOCK + "```python\nprint(0)\n", ended=False) == P
    assert extract_program(BLOCK + "```python\nprint(0)\n", ended=True) == "print(0)\n"
    assert extract_program("> ```python\n> print(1)\n\nA quote ends its block.", ended=False) == "print(1)\n"
    assert extract_program(P, ended=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 20_000,
        "a```" * 20_000,
        "```python\nx = (\n" * 3000,
        "```python\nprint(1\n```\n" * 3000,
        "```python\n" + "'''\n```\n" * 3000,
        "```python\nprint(a)\n```\n" * 2000,
        "```python\nprint(" + "-" * 50_000 + "1)\n```",
        "```python\n" + "(" * 190 + "\n```",
        ">" * 100_000,
        "<think>\n```\n" * 3000,
    ],
    ids=range(10),
)
def test_no_text_takes_long(text):
    began = time.process_time()
    extract_program(answer_of_text(text, opened=False), ended=True)
    assert time.process_time() - began < 10  # without its bounds it takes minutes


OPEN, CLOSE, END = 1, 2, 3
THINK = (OPEN, CLOSE)


def taken(prompt_ids, pieces, *, finish_reason="stop", rule="markdown", think=THINK):
    """`pieces`: text, or the id of a tag; a text is one token, whose id is its place plus ten."""
    ids = tuple(piece if isinstance(piece, int) else 10 + place for place, piece in enumerate(pieces))
    words = {10 + place: piece for place, piece in enumerate(pieces)} | {OPEN: "<think>", CLOSE: "</think>", END: ""}

    def decode(token_ids):
        return "".join(words[i] for i in token_ids)

    completion = Completion(token_ids=ids, behavior_logprobs=(), finish_reason=finish_reason, policy_version=0)
    extract = make_extract(rule, decode=decode, think_token_ids=think)
    return extract(Prompt(problem_id="p", token_ids=prompt_ids), completion, decode(ids))


DRAFT = "```python\nprint(0)\n```\n"
PRINTS_TAG = "```python\nprint('</think>')\n```\n"


@pytest.mark.parametrize(
    ("prompt_ids", "pieces", "program"),
    [
        ((9,), [OPEN, DRAFT, CLOSE, BLOCK, END], P),
        ((9,), [OPEN, DRAFT, CLOSE, "The answer is above.", END], None),
        ((9,), [OPEN, BLOCK, END], None),
        ((9, OPEN), [DRAFT, CLOSE, BLOCK, END], P),
        ((9, OPEN), [DRAFT, CLOSE, "none", END], None),
        ((9, OPEN), [BLOCK, END], None),
        ((9, OPEN), ["```python\nprint(0)\n", CLOSE, BLOCK, END], P),
        ((9, OPEN), ["The text </think> is no token.\n", BLOCK, END], None),
        ((9, OPEN, CLOSE), [BLOCK, END], P),
        ((9, OPEN, CLOSE), ["```python\nprint('", CLOSE, "')\n```\n", END], "print('</think>')\n"),
        ((9, OPEN, CLOSE), ["```python\nprint('''\n", OPEN, "\n''')\n```\n", END], "print('''\n<think>\n''')\n"),
        ((9, OPEN), ["hm", CLOSE, PRINTS_TAG, END], "print('</think>')\n"),
        ((9,), ["I leave ", OPEN, " out.\n", BLOCK, END], P),
        ((9,), [OPEN, "a", CLOSE, BLOCK, OPEN, DRAFT, CLOSE, "Done.", END], P),
        ((9,), ["<thinking>\n", BLOCK, END], None),
        ((9,), [OPEN, "I close </thinking> here\n", DRAFT, CLOSE, "Above.", END], None),
        ((9, OPEN), ["I close </thinking> here\n", DRAFT, CLOSE, "Above.", END], None),
        ((9,), [OPEN, "a", CLOSE, "Of my\n<thinking>\nthis is left:\n", BLOCK, END], P),
    ],
)
def test_thinking_is_known_from_the_prompt_and_the_tokens(prompt_ids, pieces, program):
    assert taken(prompt_ids, pieces).program == program


def test_a_tokenizer_without_the_tokens_has_tags_in_the_text():
    assert taken((9,), ["<think>\n", DRAFT, "</think>\n", BLOCK], think=None).program == P


def test_the_published_rule_is_kept_and_differences_are_told():
    sample = BLOCK + "```\n8\n```\n"
    assert published_program(sample) == "8\n"
    assert taken((9,), [sample]) == (P, True)
    assert taken((9,), [sample], rule="original") == ("8\n", True)
    assert taken((9,), [BLOCK]) == taken((9,), [BLOCK], rule="original") == (P, False)
    assert taken((9,), ["```python\nprint(1)"], finish_reason="length") == (None, False)
    assert taken((9,), ["```python\nprint(1)"]) == ("print(1)\n", True)
