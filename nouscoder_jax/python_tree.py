"""The syntax tree of Python source that anybody may have written.

In: text. Out: its tree; None, or a ValueError, where this interpreter cannot read it. Nothing of the text is run.
"""

from __future__ import annotations

import ast
import warnings


def parse(source: str) -> ast.Module | None:
    """The tree; None where this interpreter's grammar or limits do not take the text. No warning is shown."""
    try:
        return read(source)
    except ValueError:
        return None


def read(source: str) -> ast.Module:
    """The tree. Raises ValueError that says why there is none. No warning is shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError, SystemError) as error:  # 3.11: SystemError for deep nesting
        raise ValueError(str(error)) from error
