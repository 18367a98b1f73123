"""Generated blocks of a Markdown file: what stands between two marker lines is written by a command.

In: a file with the lines `<!-- NAME: begin ... -->` and `<!-- NAME: end -->`, a block of text. Out: the same file with
the block between them. The begin line may say anything after the name, such as the command that writes the block:

    <!-- objectives: begin (python scripts/bench.py objectives --readme README.md writes this) -->
    <!-- objectives: end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from nouscoder_jax.config import UserError


def replace_block(text: str, name: str, block: str) -> str:
    """The text with `block` between the marker lines of `name`, which stay as they are.

    The block stands between empty lines, so that Markdown sees a table as one. Writing the same block again changes
    nothing. Raises UserError where a marker is missing, stands twice, or the end stands before the begin.
    """
    begins = list(re.finditer(rf"^<!-- {re.escape(name)}: begin\b.*-->[ \t]*$", text, re.MULTILINE))
    ends = list(re.finditer(rf"^<!-- {re.escape(name)}: end -->[ \t]*$", text, re.MULTILINE))
    for found, line in ((begins, f"<!-- {name}: begin (COMMAND writes this) -->"), (ends, f"<!-- {name}: end -->")):
        if len(found) != 1:
            raise UserError(f"the line {line} is there {len(found)} times; have it once")
    before, after = begins[0].end(), ends[0].start()
    if before > after:
        raise UserError(f"<!-- {name}: end --> stands before <!-- {name}: begin -->; swap them")
    body = block.strip("\n")
    return f"{text[:before]}\n\n{body}\n\n{text[after:]}" if body else f"{text[:before]}\n{text[after:]}"


def write_block(path: Path, name: str, block: str) -> None:
    """Replaces the block in the file. Raises UserError as `replace_block` does, and where there is no such file."""
    try:
        path.write_text(replace_block(path.read_text(encoding="utf-8"), name, block), encoding="utf-8")
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path}: {error}") from error
