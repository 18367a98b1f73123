"""The page over HTTP while its runs go on.

In: Contents, an address. Out: a server of the page and its data, and of nothing else:

    /                            the page, without data
    /updates?version=V&blocks=N&generation=G    what is new for a page that has N blocks: JSON {version, generation,
                                 overview, blocks, next}; the folders are read when it is asked for
    /chunks/GENERATION/NUMBER    a chunk of texts (report/pack.py), gzip

A page of another generation than the server's gets everything anew. Requests that name another host than the server's
own are refused where it listens on the loopback, so that no page of the web reaches it by a name of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nouscoder_jax.config import UserError
from nouscoder_jax.report.contents import Contents
from nouscoder_jax.report.page import pieces, to_json

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CHUNK = re.compile(r"/chunks/(\d{1,9})/(\d{1,9})")


def open_server(contents: Contents, names: Sequence[str], *, host: str, port: int) -> ReportServer:
    """A server that listens; `serve_forever` answers. Raises UserError."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port got {port}; expected a number from 0 to 65535")
    try:
        return ReportServer(contents, names, host=host, port=port)
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port or --host") from error


class ReportServer(ThreadingHTTPServer):
    """Answers for one page."""

    daemon_threads = True

    def __init__(self, contents: Contents, names: Sequence[str], *, host: str, port: int) -> None:
        """Listens at once. Raises OSError."""
        super().__init__((host, port), _Handler)
        self._contents, self._lock = contents, threading.Lock()
        self._page = "".join(pieces(names, contents=None)).encode("utf-8")
        self._host = host

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self._host}:{self.server_port}/"

    def accepts(self, host: str) -> bool:
        """Whether a request may name this host."""
        return self._host not in LOOPBACK or host in {f"{name}:{self.server_port}" for name in LOOPBACK}

    def answer(self, target: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, kind and body for a path with its query."""
        parts = urlsplit(target)
        if parts.path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", self._page
        if parts.path == "/updates":
            return HTTPStatus.OK, "application/json", to_json(self._news(parse_qs(parts.query)))
        if (match := _CHUNK.fullmatch(parts.path)) and (chunk := self._chunk(int(match[1]), int(match[2]))) is not None:
            return HTTPStatus.OK, "application/octet-stream", chunk
        return HTTPStatus.NOT_FOUND, "text/plain", b"not found\n"

    def _chunk(self, generation: int, number: int) -> bytes | None:
        with self._lock:
            if generation != self._contents.generation or number >= self._contents.pack.num_chunks:
                return None
            return self._contents.pack.chunk(number)

    def _news(self, query: dict[str, list[str]]) -> dict[str, Any]:
        with self._lock:
            self._contents.update()
            generation, blocks = self._contents.generation, self._contents.pack.blocks
            overview = self._contents.overview()
            version = hashlib.sha256(to_json([generation, len(blocks), overview])).hexdigest()
            if query.get("version") == [version]:
                return {"version": version}
            known = _number(query, "blocks") if _number(query, "generation") == generation else 0
            new = [base64.b64encode(block).decode() for block in blocks[known:]]
        return {
            "version": version,
            "generation": generation,
            "overview": overview,
            "blocks": new,
            "next": len(blocks),
        }


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        """Answers, or refuses a request that names another host."""
        if self.server.accepts(self.headers.get("Host", "")):
            status, kind, body = self.server.answer(self.path)
        else:
            status, kind, body = HTTPStatus.FORBIDDEN, "text/plain", b"another host was asked for\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked is gone
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a page asks every other second."""


def _number(query: dict[str, list[str]], name: str) -> int:
    text = query.get(name, ["0"])[0]
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0
