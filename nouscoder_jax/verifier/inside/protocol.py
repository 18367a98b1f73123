"""Frames between the host and the runner inside a sandbox.

In: fields and the size of a body. Out: bytes, `>II` (lengths of fields and body), then `key=value` lines; the body
comes after. Standard library only and no json: this file also runs inside, where every import costs time.

    host -> runner   op=setup   how to isolate the runner, once; answered by `isolation=...`
                     op=open    body is the program; answered by `ok=1`
                     op=run     body is one input; answered by status=..., as body the output or the end of stderr
    runner -> host   judge_error=... instead of an answer: the sandbox failed, not the program
"""

from __future__ import annotations

import struct

HEAD = struct.Struct(">II")
MAX_FIELDS_BYTES = 1 << 16
MAX_WAIT_FACTOR = 10.0
"""Waiting for a processor lengthens a test's wall limit by at most this multiple of it."""


def pack(fields: dict[str, object], body_size: int) -> bytes:
    """A frame up to its body. Values become text; line breaks in them become blanks."""
    text = "\n".join(f"{key}={_one_line(value)}" for key, value in fields.items())
    data = text.encode("utf-8", "backslashreplace")[:MAX_FIELDS_BYTES]
    return HEAD.pack(len(data), body_size) + data


def unpack_fields(data: bytes) -> dict[str, str]:
    """The fields of a frame. Lines without `=` are dropped."""
    lines = data.decode("utf-8", "replace").split("\n")
    return {key: value for key, mark, value in (line.partition("=") for line in lines) if mark}


def _one_line(value: object) -> str:
    return str(value).replace("\n", " ").replace("\r", " ")
