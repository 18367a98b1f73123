"""Generated blocks of a Markdown file: what stands between two marker lines is written by a command.

In: a file with the lines `<!-- NAME: begin ... -->` and `<!-- NAME: end -->`, a block of text. Out: the same file with
the block between them. The begin line may say anything after the name, such as the command that writes the block:

    <!-- objectives: begin (python scripts/bench.py objectives --readme README.md writes this) -->
    <!-- objectives: end -->
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from nouscoder_jax.config import UserError


def replace_block(text: str, name: str, block: str) -> str:
    """The text with `block` between the marker lines of `name`, which stay as they are.

    The block stands between empty lines, so that Markdown sees a table as one. Writing the same block again changes
    nothing. Raises UserError where a marker is missing, stands twice, or the end stands before the begin.
    """
    before, after = _markers(text, name)
    body = block.strip("\n")
    return f"{text[:before]}\n\n{body}\n\n{text[after:]}" if body else f"{text[:before]}\n{text[after:]}"


def write_block(path: Path, name: str, block: str) -> None:
    """Replaces the block in the file, all or nothing. Raises UserError as `replace_block` does, and where the file
    cannot be read or written."""
    try:
        text = path.read_text(encoding="utf-8")
        _write_atomically(path, replace_block(text, name, block))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; give a Markdown file") from error
    except OSError as error:
        raise UserError(
            f"cannot write the block {name} of {path}: {error.strerror}; give a file that exists"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _markers(text: str, name: str) -> tuple[int, int]:
    """Where the begin line ends (before its line break) and where the end line starts."""
    begins = list(re.finditer(rf"^<!-- {re.escape(name)}: begin\b.*-->[ \t]*$", text, re.MULTILINE))
    ends = list(re.finditer(rf"^<!-- {re.escape(name)}: end -->[ \t]*$", text, re.MULTILINE))
    for found, line in ((begins, f"<!-- {name}: begin (COMMAND writes this) -->"), (ends, f"<!-- {name}: end -->")):
        if len(found) != 1:
            raise UserError(f"the line {line} is there {len(found)} times; have it once")
    if begins[0].end() > ends[0].start():
        raise UserError(f"<!-- {name}: end --> stands before <!-- {name}: begin -->; swap them")
    return begins[0].end(), ends[0].start()


def _write_atomically(path: Path, text: str) -> None:
    """Beside the file first (through a link: beside what it points to), then over it; its permissions stay."""
    target = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
