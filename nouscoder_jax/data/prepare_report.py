"""How far preparing is, and what came of it, as a page of numbers and reasons.

In: counts, a prepared folder. Out: lines for people, report.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nouscoder_jax.data.store import Store

_TESTS = ((1, 1), (2, 4), (5, 14), (15, 49), (50, 199), (200, None))
"""Numbers of tests that are counted together."""


@dataclass(kw_only=True)
class Progress:
    """How far it is: what progress.json holds between two shards, and at the end problems.json."""

    sources: list[dict[str, str]]
    filters: dict[str, Any]
    file: int = 0
    """Of all files of all sources, the one that is read."""
    record: int = 0
    """Records of it that are done."""
    record_sha256: str = ""
    """Of the last of them."""
    files: list[list[Any]] = field(default_factory=list)
    """Format, path and bytes of each."""
    rejected_bytes: int = 0
    """Length of rejected.jsonl."""
    num_read: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    """Problems by source and license, as JSON of the two."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Records by kind: broken, or the reason for which they are left out."""

    @property
    def num_kept(self) -> int:
        """Problems in the folder."""
        return sum(self.kept.values())

    def line(self) -> str:
        """What is read and kept so far, for people."""
        parts = [f"{self.num_read} records read", f"{self.num_kept} problems kept"]
        parts += [f"{count} {reason}" for reason, count in sorted(self.rejected.items(), key=lambda item: -item[1])]
        return ", ".join(parts)

    def table(self) -> list[str]:
        """Problems by origin and license, as lines of Markdown."""
        lines = ["| problems | origin | license |", "|---:|---|---|"]
        for key, count in sorted(self.kept.items(), key=lambda item: -item[1]):
            origin, license_ = json.loads(key)
            lines.append(f"| {count} | {_cell(origin)} | {_cell(license_)} |")
        return lines


def report(store: Store, progress: Progress) -> str:
    """report.md: what is in the folder and what is not, and why."""
    platforms, years, tests, kinds = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for problem in store.problems():
        platforms[f"{problem.platform or 'not stated'} | {problem.difficulty or 'not stated'}"] += 1
        years[problem.date[:4] or "not stated"] += 1
        tests[_tests(len(problem.tests))] += 1
        kinds["a function" if problem.fn_name else "a program that reads stdin"] += 1
    ranges = [_range(*pair) for pair in _TESTS]
    parts = [
        ["# Prepared problems", "", progress.line()],
        ["## Origin and license", "", *progress.table()],
        ["## Left out", "", "Each record with its place: rejected.jsonl.", "",
         *_table("records | reason", progress.rejected.items())],
        ["## What is asked for", "", *_table("problems | what", kinds.items())],
        ["## Tests of a problem", "",
         *_table("problems | tests", ((name, tests[name]) for name in ranges), ordered=True)],
        ["## Platform and difficulty", "", *_table("problems | platform | difficulty", platforms.items())],
        ["## Year", "", *_table("problems | year", sorted(years.items()), ordered=True)],
        ["## Sources and filters", "", *(f"- `{one['format']}={one['path']}`" for one in progress.sources),
         f"- filters: `{json.dumps(progress.filters)}`"],
    ]  # fmt: skip
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split()) or "not stated"


def _table(head: str, counts: Iterable[tuple[str, int]], *, ordered: bool = False) -> list[str]:
    rows = [(count, name) for name, count in counts if count]
    if not rows:
        return ["Nothing."]
    rows = rows if ordered else sorted(rows, key=lambda row: (-row[0], row[1]))
    columns = head.count("|") + 1
    return [f"| {head} |", f"|---:|{'---|' * (columns - 1)}", *(f"| {count} | {name} |" for count, name in rows)]


def _range(first: int, last: int | None) -> str:
    return str(first) if first == last else f"{first} or more" if last is None else f"{first} to {last}"


def _tests(count: int) -> str:
    return next(_range(first, last) for first, last in _TESTS if last is None or count <= last)
