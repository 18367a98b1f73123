"""The line to a container as a plain socket, for asyncio, where the Docker SDK gives something else.

In: what `attach_socket` returns: a socket of the system, a TLS socket, or pipes to an ssh process. Out: a socket. For
the last two it is one end of a pair, and daemon threads move bytes between the other end and what there was.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from typing import Any

_CHUNK = 1 << 16


def as_socket(attached: Any) -> socket.socket:
    """A socket of the system with the same bytes. Whoever closes it closes the line."""
    if hasattr(attached, "proc"):
        return _pair(_pump_pipes, attached)
    if isinstance(attached, ssl.SSLSocket):
        attached.setblocking(False)
        return _pair(_pump_tls, attached)
    copy = socket.socket(fileno=os.dup(attached.fileno()))
    attached.close()
    return copy


def _pair(pump: Any, attached: Any) -> socket.socket:
    ours, theirs = socket.socketpair()
    threading.Thread(target=pump, args=(theirs, attached), name="docker-line", daemon=True).start()
    return ours


def _pump_tls(local: socket.socket, remote: ssl.SSLSocket) -> None:
    """One thread for both ways: a TLS connection must not be read and written at the same time."""
    waiting: list[Any] = [local, remote]
    with contextlib.suppress(OSError), local, remote:
        while remote in waiting:
            ready = waiting if remote.pending() else select.select(waiting, [], [])[0]
            if remote in ready:
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):  # no data in what came
                    data = remote.recv(_CHUNK)
                    if not data:
                        return
                    local.sendall(data)
            if local in ready:
                if data := local.recv(_CHUNK):
                    _send_tls(remote, data)
                else:
                    return  # TLS has no halves: the engine closes stdin when the connection ends


def _send_tls(remote: ssl.SSLSocket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[remote.send(view) :]
        except ssl.SSLWantReadError:
            select.select([remote], [], [])
        except ssl.SSLWantWriteError:
            select.select([], [remote], [])


def _pump_pipes(local: socket.socket, remote: Any) -> None:
    """Two threads, since pipes block: this one reads the process of ssh, the other writes to it."""
    process = remote.proc
    threading.Thread(target=_fill_pipe, args=(local, process), name="docker-line", daemon=True).start()
    with contextlib.suppress(OSError), local:
        while data := process.stdout.read1(_CHUNK):
            local.sendall(data)
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()


def _fill_pipe(local: socket.socket, process: Any) -> None:
    with contextlib.suppress(OSError, ValueError), process.stdin:
        while data := local.recv(_CHUNK):
            process.stdin.write(data)
            process.stdin.flush()
