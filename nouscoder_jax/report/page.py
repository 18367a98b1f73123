"""One HTML file with everything in it: styles, scripts, plotly, columns, texts.

In: Contents. Out: a file written whole or not at all, a piece after the other; the same page without data for a server.
No text of a run is HTML: data is base64, the page makes text nodes of it, and its Content-Security-Policy names the
hashes of its own scripts, forbids others, eval and any connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.report.contents import Contents

SCRIPTS = ("data.js", "charts.js", "rollouts.js", "page.js")
_HERE = files("nouscoder_jax.report")


def check_out(path: Path, *, replace: bool) -> None:
    """Raises UserError where the page cannot be written there."""
    if path.is_dir():
        raise UserError(f"--out got {path}, a folder; expected a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UserError(f"--out got {path}; expected a file in a folder that exists: make {path.parent} first")
    if path.exists() and not replace:
        raise UserError(f"--out got {path}, which exists; expected a new file: choose another one, or add --replace")


def write_page(contents: Contents, names: Sequence[str], path: Path) -> int:
    """Writes the page of the runs with these names, and returns its bytes. Raises UserError."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for piece in pieces(names, contents=contents):
                file.write(piece)
        size = part.stat().st_size
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another --out") from error
    finally:
        part.unlink(missing_ok=True)
    return size


def pieces(names: Sequence[str], *, contents: Contents | None) -> Iterator[str]:
    """The page, piece by piece. Without contents it asks the server that it comes from."""
    own = "".join(_own(name) for name in SCRIPTS)
    plotly = plotly_source()
    head, between, end = _own("page.html").split("<!-- data -->\n")
    values = {
        "policy": _policy([own, plotly], live=contents is None),
        "title": html.escape(", ".join(names)).encode("utf-8", "replace").decode(),
        "style": _own("page.css"),
        "live": "yes" if contents is None else "no",
    }
    for name, value in values.items():
        head = head.replace(f"{{{{{name}}}}}", value)
    yield head
    if contents is not None:
        yield _inert("overview", to_json(contents.overview()))
        for number, block in enumerate(contents.pack.blocks):
            yield _inert(f"block-{number}", block)
    yield f'<script type="text/plain" id="plotly">{plotly}</script>\n'
    yield f"<script>{own}</script>\n{between}"
    if contents is not None:
        for number in range(contents.pack.num_chunks):
            yield _inert(f"chunk-{number}", contents.pack.chunk(number))
    yield end


def plotly_source() -> str:
    """plotly.js. Raises ModuleNotFoundError: the extra `report` is not installed."""
    return _inline((files("plotly") / "package_data/plotly.min.js").read_text(encoding="utf-8"))


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _inline(source: str) -> str:
    """The script, which must not hold what ends it in HTML. Raises UserError."""
    if "</script" in source.lower() or "<!--" in source:
        raise UserError("plotly.min.js holds what ends a script in HTML; install another version of plotly")
    return source


def _policy(scripts: Sequence[str], *, live: bool) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {chr(39)}{'self' if live else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'"
    )


def _inert(name: str, data: bytes) -> str:
    return f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>\n'


def to_json(value: Any) -> bytes:
    """As the page reads it."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
