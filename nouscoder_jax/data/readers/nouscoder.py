"""Our own format: what data/problems.py documents, so that a file of it can go into a prepared folder.

In and out: its records, as they are.
"""

from __future__ import annotations

from typing import Any

from nouscoder_jax.data.readers.fields import LeftOutError, Record


def nouscoder(record: Record) -> dict[str, Any]:
    """The record itself. LeftOutError: it has no tests."""
    if record.get("tests") == []:
        raise LeftOutError("no tests")
    return dict(record)
