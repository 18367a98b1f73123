"""The syntax tree of Python source that anybody may have written.

In: text. Out: its tree, or None where this interpreter cannot read it. Nothing of the text is run.
"""

from __future__ import annotations

import ast
import warnings


def parse(source: str) -> ast.Module | None:
    """The tree; None where this interpreter's grammar or limits do not take the text. No warning is shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):  # 3.11: SystemError for deep nesting
        return None
