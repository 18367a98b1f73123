"""The program in a completion.

In: a prompt, its completion, the completion's text. Out: the source of the program, or None; and whether the other rule
of `data.extract_rule` takes another one.

    completion --thinking.py--> answer --blocks.py--> fenced blocks --choose--> program

A block is chosen, last one first, if it is tagged python or not tagged, is Python and does something: no sample output,
no command line, no diff, no other language, no placeholder. Where fences do not pair up to such a block (one too many,
one glued to a line), every stretch between two marks is tried.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from nouscoder_jax.rollout.blocks import Block, fence_marks, fenced_blocks, is_tag, is_tagged, strip_tag
from nouscoder_jax.rollout.python_source import (
    MOST_CHARS,
    Parser,
    does_something,
    given_names,
    needed_names,
    prints,
    reads_input,
    stands_alone,
)
from nouscoder_jax.rollout.thinking import answer_of_text, answer_of_tokens, is_open
from nouscoder_jax.types import Completion, Prompt

_LINE_ENDS = re.compile(r"\r\n?")
_PUBLISHED = re.compile(r"^```\w*\s*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LIKE_CODE = re.compile(r"^\s*(?:import \w|from [\w.]+ import |def \w+\(|class \w+|print\()", re.MULTILINE)
_OTHER_TAG = re.compile(
    r"(?:bash|sh|shell|console|zsh|c|cpp|c\+\+|java|js|javascript|rust|go|text|txt|output|input|diff|json)", re.I
)
_MOST_MARKS, _MOST_ENDS = 100, 12
_MOST_NESTED = 4
_MOST_PARSED_CHARS = 500_000


class Extracted(NamedTuple):
    """What was taken out of a completion.

    Example:
        Extracted(program="print(1)\\n", rules_differ=False)
    """

    program: str | None
    rules_differ: bool
    """The two rules of data.extract_rule take different programs, but for blanks at their ends."""


@runtime_checkable
class Extract(Protocol):
    """Takes the program out of a completion."""

    def __call__(self, prompt: Prompt, completion: Completion, text: str) -> Extracted:
        """`text`: the completion decoded."""
        ...


def make_extract(
    rule: str, *, decode: Callable[[Sequence[int]], str], think_token_ids: tuple[int, int] | None
) -> Extract:
    """`data.extract_rule` as a function. `think_token_ids`: of `<think>` and `</think>`; None where the tokenizer has
    no such tokens."""

    def extract(prompt: Prompt, completion: Completion, text: str) -> Extracted:
        if think_token_ids is None:
            answer = answer_of_text(text, opened=False)
        else:
            opened = is_open(prompt.token_ids, think_token_ids)
            ids = completion.token_ids
            answer = answer_of_tokens(ids, opened=opened, think_token_ids=think_token_ids, decode=decode)
        ours = extract_program(answer, ended=completion.finish_reason == "stop")
        published = published_program(text)
        differ = (ours or "").strip() != (published or "").strip()
        return Extracted(published if rule == "original" else ours, differ)

    return extract


def published_program(text: str) -> str | None:
    """The rule of NousCoder's released environment (NousResearch/atropos coding_server.py at 296a0bc5): the last
    stretch between a line that begins with three back-ticks, perhaps with one word, and the next that begins with
    three. Thinking and other languages count."""
    found = _PUBLISHED.findall(text)
    return found[-1] if found else None


def extract_program(answer: str, *, ended: bool) -> str | None:
    """The program in an answer, without its fences; None where there is none.

    `ended`: the completion ended by itself. Then a last block without its closing fence counts; of a completion that
    was cut it does not. Line ends become \\n; nothing else in the program is changed. Where no block is Python, the
    last one that claims to be is returned: its error is the program's.
    """
    text = _LINE_ENDS.sub("\n", answer)
    if not text.strip():
        return None
    text += "" if text.endswith("\n") else "\n"
    blocks = [block for block in fenced_blocks(text) if block.closed or ended]
    chooser = _Chooser()
    found = chooser.among(blocks, text, ended) or chooser.between_marks(text, ended)
    if found is None and "\\n" in text and "\n" not in text.strip():  # written with its line ends escaped
        return extract_program(text.strip().replace("\\n", "\n"), ended=ended)
    return found or chooser.claimed(blocks)


class _Chooser:
    def __init__(self) -> None:
        self._parse = Parser(_MOST_PARSED_CHARS).parse

    def among(self, blocks: list[Block], text: str, ended: bool) -> str | None:
        """The last block that is a program. An example of a call to an earlier one is not; what needs an earlier one's
        names and reads input is joined to it."""
        example, nested_tries = None, 0
        for place, block in reversed(list(enumerate(blocks))):
            if not (block.is_python or block.is_untagged):
                continue
            program = self._program(block.body, behind=block.behind_tag)
            if program is None:
                nested_tries += 1
                if nested_tries <= _MOST_NESTED:
                    program = self.between_marks(text[block.start :], ended)
                    if program is not None:
                        return program
                continue
            tree = self._parse(program)
            assert tree is not None
            earlier = self._giving(needed_names(tree), blocks[:place])
            if stands_alone(tree) or reads_input(tree) or (earlier and self._only_reads(earlier)):
                return f"{earlier}\n{program}" if earlier else program
            if block.is_python and not earlier:
                return program
            example = example or program
        return example

    def _giving(self, names: set[str], blocks: list[Block]) -> str | None:
        """The blocks that give the names, and those that give what these need, as one program."""
        found: list[str] = []
        for block in reversed(blocks):
            program = self._program(block.body, behind=block.behind_tag) if names else None
            tree = self._parse(program) if program else None
            if program is not None and tree is not None and (given := names & given_names(tree)):
                names = (names - given) | needed_names(tree)
                found.append(program)
        return "\n".join(reversed(found)) or None

    def _only_reads(self, program: str) -> bool:
        """Whether it reads input and prints nothing: what stands below it goes on with it."""
        tree = self._parse(program)
        return tree is not None and reads_input(tree) and not prints(tree)

    def _program(self, body: str, *, behind: str) -> str | None:
        """The body, or what of it is Python and does something. `behind`: what stands behind the tag, perhaps code."""
        if len(body) > MOST_CHARS:
            return None
        first, line_end, rest = body.lstrip("\n").partition("\n")
        if line_end and is_tag(first):
            body = rest
        before = self._parse(behind.strip())
        for source in (body, textwrap.dedent(body)):
            tree = self._parse(source)
            if tree is not None and not does_something(tree):
                tree = None
            if behind.strip() and (tree is None or (before and needed_names(tree) & given_names(before))):
                whole = f"{behind.strip()}\n{source}"
                longer = self._parse(whole)
                if longer is not None and does_something(longer):
                    return _ended(whole)
            if tree is not None:
                return _ended(source)
        return None

    def between_marks(self, text: str, ended: bool) -> str | None:
        """The last stretch between two fence marks, wherever on their lines, that is a program: from a mark tagged
        python to the nearest later one that makes it so, else from any mark, else from the text's begin. The text's end
        is a mark too if it ended by itself."""
        marks = fence_marks(text)[-_MOST_MARKS:]
        last = [len(text)] if ended else []
        later = [[start for start, _ in marks[place + 1 :][:_MOST_ENDS]] + last for place in range(len(marks))]
        found, behind = None, 0
        for (start, begin), ends in zip(marks, later, strict=True):  # forward: one within another's text is its text
            if start < behind or not is_tagged(text[begin : text.find("\n", begin)]):
                continue
            for end in ends:
                if (program := self._stretch(text[begin:end])) is not None:
                    found, behind = program, end + 1
                    break
        if found is not None:
            return found
        for (_, begin), ends in zip(reversed(marks), reversed(later), strict=True):
            for end in ends:
                if (program := self._stretch(text[begin:end])) is not None:
                    return program
        if marks:
            return self._program(text[: marks[0][0]], behind="")
        return self._program(text, behind="") if ended else None

    def _stretch(self, text: str) -> str | None:
        """The program in a stretch that begins behind a mark: the rest of a line, perhaps a tag, and lines."""
        head, line_end, body = text.partition("\n")
        code = strip_tag(head)
        if code == head and _OTHER_TAG.fullmatch(head.strip()):
            return None
        if not line_end:
            return self._program(code, behind="") if code != head else None
        return self._program(body, behind=code if code != head else "")

    def claimed(self, blocks: list[Block]) -> str | None:
        """The last block that is tagged python, or looks like it, is more than comments, and is not Python."""
        for block in reversed(blocks):
            has_code = any(line.strip() and not line.strip().startswith("#") for line in block.body.split("\n"))
            like_code = block.is_python or (block.is_untagged and _LIKE_CODE.search(block.body))
            if has_code and like_code and self._parse(block.body) is None:
                return _ended(block.body)
        return None


def _ended(source: str) -> str:
    return source if source.endswith("\n") else source + "\n"
