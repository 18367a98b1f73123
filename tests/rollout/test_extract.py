import pytest

from nouscoder_jax.rollout.extract import extract_program


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("```py\na\n```\ntext\n```python\nb\n```\nend", "b\n"),
        ("<think>\n```python\nwrong\n```\n</think>\n```python\nright\n```", "right\n"),
        ("thinking without its start ```\n</think>\n```python\nright\n```", "right\n"),
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("  ```python\na\n  ```", "a\n"),
        ("```python\na\n```\n```python\ncut off", "a\n"),
        ("```python\na\n```\n```\n\n```", "a\n"),
        ("```c++ 20\nint x;\n```", "int x;\n"),
        ("```python \na\n``` ", "a\n"),
        ('```python\nprint("""\n```x\n""")\n```', 'print("""\n```x\n""")\n'),
    ],
)
def test_the_last_closed_block_outside_the_thinking_is_the_program(text, program):
    assert extract_program(text) == program


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print(1)",
        "inline `print(1)`",
        "```python\nprint(1)",
        "```python print(1)```",
        "<think>\n```python\nprint(1)\n```\n",
        "<think>\n```python\nprint(1)\n```\n</think>\nno block",
        "```\n```",
    ],
)
def test_there_is_no_program_elsewhere(text):
    assert extract_program(text) is None
