"""The part of a completion outside its thinking.

In: the tokens of a prompt and of its completion. Out: the answer's text. Where thinking begins and ends is known: from
the prompt, whose template may have opened it, and from the tokens `<think>` and `</think>`. A text that speaks of them,
or a program that prints them, is answer like any other. Where a tokenizer has no such tokens, tags in the text stand
for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from nouscoder_jax.rollout.blocks import fenced_blocks

OPEN, CLOSE = "<think>", "</think>"
_SPELLED = re.compile(r"</?thinking>", re.IGNORECASE)
_TAGS = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_MOST_LOOKS = 8


def is_open(prompt_ids: Sequence[int], think_token_ids: tuple[int, int]) -> bool:
    """Whether the prompt ends within a thinking part: its template has opened one and not closed it."""
    opening, closing = think_token_ids
    last = next((i for i in reversed(prompt_ids) if i in (opening, closing)), closing)
    return last == opening


def answer_of_text(text: str, *, opened: bool) -> str:
    """The text outside thinking parts, by its tags. `opened`: the prompt has opened one."""
    return _answer(_split(text, _TAGS), opened=opened)


def answer_of_tokens(
    token_ids: Sequence[int],
    *,
    opened: bool,
    think_token_ids: tuple[int, int],
    decode: Callable[[Sequence[int]], str],
) -> str:
    """The text of the tokens outside thinking parts. `opened`: the prompt has opened one."""

    def parts() -> Iterator[tuple[str, bool]]:
        start, known = 0, opened
        for place, token_id in enumerate(token_ids):
            if token_id in think_token_ids:
                yield from spelled(token_ids[start:place], known)
                known = True
                yield OPEN if token_id == think_token_ids[0] else CLOSE, True
                start = place + 1
        yield from spelled(token_ids[start:], known)

    def spelled(ids: Sequence[int], known: bool) -> Iterator[tuple[str, bool]]:
        """Tags of letters count for a model that has not used, nor been given, the tokens."""
        return iter([(decode(ids), False)]) if known else _split(decode(ids), _SPELLED)

    return _answer(parts(), opened=opened)


def _split(text: str, tags: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """The text in parts, each with whether it is a tag."""
    start = 0
    for found in tags.finditer(text):
        yield text[start : found.start()], False
        yield found.group(), True
        start = found.end()
    yield text[start:], False


def _answer(parts: Iterator[tuple[str, bool]], *, opened: bool) -> str:
    """The parts outside thinking. A tag opens a thinking part at the beginning of a line outside a program only."""
    answer: list[str] = []
    looks = 0
    for part, is_tag in parts:
        if not is_tag:
            if not opened:
                answer.append(part)
        elif part.startswith("</"):
            if not opened:
                answer.append(part)
            opened = False
        elif not opened:
            before = "".join(answer)
            at_start = not before.rpartition("\n")[2].strip()
            looks += at_start
            opened = at_start and looks <= _MOST_LOOKS and not _within_block(before)
            if not opened:
                answer.append(part)
    return "".join(answer)


def _within_block(text: str) -> bool:
    blocks = fenced_blocks(text if text.endswith("\n") else text + "\n") if text.strip() else []
    return bool(blocks) and not blocks[-1].closed
