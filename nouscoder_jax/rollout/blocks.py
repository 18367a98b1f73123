"""Fenced code blocks of a Markdown text.

In: text with \\n line ends. Out: blocks in order, by CommonMark (markdown-it-py), and where fences stand by themselves.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from markdown_it import MarkdownIt

_MARKDOWN = MarkdownIt("commonmark")
# Only blocks matter. HTML is text: `<answer>` before a fence would swallow it. Line ends are the caller's.
_MARKDOWN.core.ruler.enableOnly(["block"])
_MARKDOWN.block.ruler.disable(["html_block", "reference"])

_PYTHON = re.compile(r"[{.\s]*(?:lang(?:uage)?-)?(?:i?python|py|cpython|pypy|sage)-?\d*(?:\.\d+)*(?![\w-])[}\s]*", re.I)
_MARK = re.compile(r"`{3,}|^[ \t]*~{3,}", re.MULTILINE)


class Block(NamedTuple):
    """One fenced block.

    Example:
        Block(info="python", body="print(1)\\n", closed=True, start=0, end=22)
    """

    info: str
    """What stands behind the opening fence."""
    body: str
    closed: bool
    """False: the text ends before the block does."""
    start: int
    """Where its opening line begins in the text, characters."""

    @property
    def is_python(self) -> bool:
        """Whether its tag is Python's."""
        return is_tagged(self.info)

    @property
    def is_untagged(self) -> bool:
        """Whether it has no tag."""
        return not self.info.strip()

    @property
    def behind_tag(self) -> str:
        """The info without Python's tag: perhaps code, perhaps options of a renderer."""
        return strip_tag(self.info)


def is_tagged(info: str) -> bool:
    """Whether the info string of a fence begins with a tag of Python."""
    return _PYTHON.match(info) is not None


def strip_tag(info: str) -> str:
    """The info string of a fence without Python's tag."""
    found = _PYTHON.match(info)
    return info[found.end() :] if found else info


def is_tag(line: str) -> bool:
    """Whether the line is nothing but a tag of Python."""
    return _PYTHON.fullmatch(line.strip()) is not None and bool(line.strip())


def fenced_blocks(text: str) -> list[Block]:
    """The blocks of the text, which ends with a line end."""
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    blocks = []
    for token in _MARKDOWN.parse(text):
        if token.type != "fence" or token.map is None:
            continue
        first, end = token.map
        has_end = token.content.count("\n") < end - first - 1
        closed = has_end or text[starts[end] :].strip() != ""
        blocks.append(Block(info=token.info, body=token.content, closed=closed, start=starts[first]))
    return blocks


def fence_marks(text: str) -> list[tuple[int, int]]:
    """(start, end) of everything that looks like a fence, wherever on its line it stands."""
    return [found.span() for found in _MARK.finditer(text)]
