"""The program in a completion's text.

In: text of a completion. Out: source of the last fenced code block outside the thinking part, or None.
"""

from __future__ import annotations

import re

_THINK_END = "</think>"
_THINK_START = "<think>"
# A fence opens and closes at the start of a line, with up to three blanks before it (CommonMark 4.5).
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$", re.MULTILINE)


def extract_program(text: str) -> str | None:
    """The last closed fenced block after the thinking part, without its fences; None where there is none.

    Thinking that never ends holds no program. A block that is not closed (a cut completion) does not count. A fence is
    closed by at least as many of its own marks. The info string (```python) is not looked at: a block of any language
    is taken as the program. Blocks of blanks only do not count. Line ends become \\n.
    """
    text = text.replace("\r\n", "\n")
    before, mark, after = text.rpartition(_THINK_END)
    if mark:
        text = after
    elif _THINK_START in text:
        text = text.partition(_THINK_START)[0]
    program = None
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
            continue
        marks, info = fence.group(1), fence.group(2)
        if info.strip() or marks[0] != opened.group(1)[0] or len(marks) < len(opened.group(1)):
            continue
        body = text[opened.end() + 1 : fence.start()]
        if body.strip():
            program = body
        opened = None
    return program
