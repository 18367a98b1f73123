"""What the host reads off a program's text, so that the runner never needs to look at it.

In: source. Out: names of modules to import before the fork; whether the program's end needs finalizers. Both only save
time: a wrong guess changes no verdict.
"""

from __future__ import annotations

# Imported by the runner when the program's text names them: importing is slower than forking.
_IMPORTED_AHEAD = frozenset(
    {
        "array", "asyncio", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
        "fractions", "functools", "heapq", "io", "itertools", "json", "math", "numpy", "operator", "queue", "random",
        "re", "signal", "statistics", "string", "threading", "time", "traceback", "types", "typing",
    }
)  # fmt: skip
# What may hold text that a dying interpreter would still write: objects with a finalizer, files in data structures.
_FINALIZERS = ("__del__", "open(", "io.", "Buffered", "TextIO", "finalize")


def modules_to_import(program: str) -> list[str]:
    """Modules after `import` and `from` at the beginning of a line, if they are among those worth it; sorted."""
    names: set[str] = set()
    for line in program.splitlines():
        words = line.replace(",", " ").split()
        if words and words[0] in ("import", "from"):
            named = words[1:] if words[0] == "import" else words[1:2]
            names |= {word.partition(".")[0] for word in named}
    return sorted(names & _IMPORTED_AHEAD)


def needs_finalizers(program: str) -> bool:
    """Whether letting go of the program's globals may still write something."""
    return any(word in program for word in _FINALIZERS)
