"""Rollouts packed for the page: small facts as columns, texts in compressed chunks.

In: lines of rollouts. Out: blocks, gzip of JSON columns of up to BLOCK_ROWS rollouts; chunks, gzip of the JSON texts of
some rollouts, kept in a file, so that memory holds the columns alone. JSON is ASCII: a lone surrogate stays an escape.

    block   {"names": {column: new names}, "columns": {column: numbers}}; named columns hold places in the names of all
            blocks so far; chunk and place say where a rollout's texts are
    chunk   {"prompts": [text], "tests": [test], "rows": [{"prompt": place, "test": place or null, "thinking": text,
            "answer": text, "program": text or null, "detail": text, "got": text, "facts": {name: value}}]}
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Mapping
from typing import Any

from nouscoder_jax.report.read import Line, fate_of

BLOCK_ROWS = 8192
CHUNK_CHARS = 200_000
"""Text of a chunk, before it is compressed; the last rollout may be over it."""
NUMBERED = ("run", "step", "group", "sample", "reward", "tokens", "passed", "total", "chunk", "place")
NAMED = ("problem", "outcome", "fate")
NOT_JUDGED = "not judged"
_END_OF_THINKING = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_BEGIN_OF_THINKING = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)
_FACTS = ("finish_reason", "policy_version", "advantage")
_VERDICT_FACTS = ("cpu_s", "peak_memory_mib")


class Pack:
    """All rollouts of a page, packed as they come."""

    def __init__(self, *, text_chars: int) -> None:
        """`text_chars`: of a longer text only the beginning and the end are kept; 0: all of it."""
        self.blocks: list[bytes] = []
        self.num_rollouts = 0
        self._text_chars = text_chars
        self._chunks: list[tuple[int, int]] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._end = 0
        self._known: dict[str, dict[str, int]] = {name: {} for name in NAMED}
        self._new: dict[str, list[str]] = {name: [] for name in NAMED}
        self._columns: dict[str, list[Any]] = {name: [] for name in (*NUMBERED, *NAMED)}
        self._begin_chunk()

    @property
    def num_chunks(self) -> int:
        """Chunks of texts so far."""
        return len(self._chunks)

    def chunk(self, number: int) -> bytes:
        """A chunk, compressed. Raises IndexError."""
        start, end = self._chunks[number]
        self._file.seek(start)
        return self._file.read(end - start)

    def add(self, line: Line, *, run: int, step: int, held_out: bool, test: Mapping[str, str] | None) -> None:
        """Packs one rollout of the run with this number. `test`: {input, expected} of the first that failed."""
        verdict = line["verdict"] or {}
        places = {
            "problem": self._place_of_name("problem", line["problem_id"]),
            "outcome": self._place_of_name("outcome", str(verdict.get("outcome", NOT_JUDGED))),
            "fate": self._place_of_name("fate", fate_of(line, held_out=held_out)),
        }
        numbers = {
            "run": run,
            "step": step,
            "group": line["group_id"],
            "sample": line["sample_index"],
            "reward": _rounded(line.get("reward")),
            "tokens": line["num_tokens"],
            "passed": verdict.get("tests_passed"),
            "total": verdict.get("tests_total"),
            "chunk": len(self._chunks),
            "place": len(self._rows),
        }
        for name, value in (places | numbers).items():
            self._columns[name].append(value)
        self._add_texts(line, verdict, test)
        self.num_rollouts += 1
        if self._num_chars >= CHUNK_CHARS:
            self._end_chunk()
        if len(self._columns["run"]) >= BLOCK_ROWS:
            self._end_block()

    def flush(self) -> None:
        """Whatever was added is in blocks and chunks afterwards."""
        if self._rows:
            self._end_chunk()
        if self._columns["run"]:
            self._end_block()

    def close(self) -> None:
        """Frees the file of texts."""
        self._file.close()

    def _add_texts(self, line: Line, verdict: Mapping[str, Any], test: Mapping[str, str] | None) -> None:
        thinking, answer = split_thinking(line["prompt"], line["text"])
        program = line["program"]
        facts = {name: line.get(name) for name in _FACTS} | {name: verdict.get(name) for name in _VERDICT_FACTS}
        row = {
            "prompt": self._place_of(self._prompts, self._cut(line["prompt"])),
            "test": None if test is None else self._place_of(self._tests, test),
            "thinking": self._cut(thinking),
            "answer": self._cut(answer),
            "program": None if program is None else self._cut(program),
            "detail": self._cut(str(verdict.get("detail", ""))),
            "got": self._cut(str(verdict.get("got", ""))),
            "facts": {name: value for name, value in facts.items() if value is not None},
        }
        self._rows.append(row)
        self._num_chars += sum(len(value) for value in row.values() if isinstance(value, str))

    def _cut(self, text: str) -> str:
        return cut(text, self._text_chars)

    def _place_of_name(self, column: str, name: str) -> int:
        known = self._known[column]
        if name not in known:
            known[name] = len(known)
            self._new[column].append(name)
        return known[name]

    def _place_of(self, values: list[Any], value: Any) -> int:
        """The place of what stands among the last ones, else that of a new one: rollouts of a group share it."""
        for place in range(len(values) - 1, max(len(values) - 9, -1), -1):
            if values[place] == value:
                return place
        values.append(value)
        self._num_chars += len(value) if isinstance(value, str) else sum(map(len, value.values()))
        return len(values) - 1

    def _begin_chunk(self) -> None:
        self._prompts: list[str] = []
        self._tests: list[Mapping[str, str]] = []
        self._rows: list[dict[str, Any]] = []
        self._num_chars = 0

    def _end_chunk(self) -> None:
        data = _compressed({"prompts": self._prompts, "tests": self._tests, "rows": self._rows})
        self._file.seek(self._end)
        self._file.write(data)
        self._chunks.append((self._end, self._end + len(data)))
        self._end += len(data)
        self._begin_chunk()

    def _end_block(self) -> None:
        self.blocks.append(_compressed({"names": self._new, "columns": self._columns}))
        self._new = {name: [] for name in NAMED}
        self._columns = {name: [] for name in self._columns}


def split_thinking(prompt: str, text: str) -> tuple[str, str]:
    """The thinking part of a completion and the rest. Thinking that never ends is all of it."""
    ends = list(_END_OF_THINKING.finditer(text))
    begin = _BEGIN_OF_THINKING.match(text)
    start = begin.end() if begin else 0
    if ends:
        return text[start : ends[-1].start()].strip(), text[ends[-1].end() :].lstrip("\n")
    opened = re.search(r"<think(?:ing)?>\s*\Z", prompt, re.IGNORECASE)
    return (text[start:].strip(), "") if begin or opened else ("", text)


def cut(text: str, most: int) -> str:
    """The text; one longer than `most` (0: any) without its middle, which is said."""
    if not most or len(text) <= most:
        return text
    head = most // 3
    left_out = len(text) - most
    return f"{text[:head]}\n\n[... {left_out:,} characters left out ...]\n\n{text[len(text) - (most - head) :]}"


def _rounded(value: Any) -> float | None:
    return round(value, 6) if isinstance(value, int | float) else None


def _compressed(value: Any) -> bytes:
    return gzip.compress(json.dumps(value, separators=(",", ":")).encode("ascii"), compresslevel=6, mtime=0)
