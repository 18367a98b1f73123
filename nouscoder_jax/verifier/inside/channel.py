"""The runner's end of its connection to the host.

In: frames (nouscoder_jax/verifier/inside/protocol.py) from one file descriptor; parts of files to send. Out: fields,
bodies written to files, frames to another descriptor. Runs inside the sandbox; standard library only.

Bodies go from file to file, or through memory that a fork wipes: none passes through this process' own allocator.
"""

from __future__ import annotations

import mmap
import os
import select

from nouscoder_jax.verifier.inside import protocol

_MIB = 1 << 20
_PIPE_BYTES = 1 << 16
_MADV_WIPEONFORK = 18
# A Docker host that was killed leaves its containers' connections open: nobody will ever speak, or hang up.
_MOST_IDLE_S = 3600


class GoneError(Exception):
    """The host closed the connection, or said nothing for an hour."""


class Channel:
    """A pair of file descriptors to the host."""

    def __init__(self, descriptor_in: int, descriptor_out: int) -> None:
        self.descriptor_in = descriptor_in
        self.descriptor_out = descriptor_out
        self._through = _forgetful_memory(_MIB)
        self._idle = select.poll()
        self._idle.register(descriptor_in, select.POLLIN)

    def request(self) -> tuple[dict[str, str], int]:
        """Waits for a frame. Returns its fields and the size of its body, which comes next. Raises GoneError."""
        if not self._idle.poll(_MOST_IDLE_S * 1000):
            raise GoneError
        fields_size, body_size = protocol.HEAD.unpack(self._read(protocol.HEAD.size))
        return protocol.unpack_fields(self._read(fields_size)), body_size

    def receive(self, size: int, descriptor: int) -> None:
        """The next `size` bytes, into a file. Raises GoneError."""
        while size:
            view = self._through[: min(size, _MIB)]
            length = os.readv(self.descriptor_in, [view])
            if not length:
                raise GoneError
            size -= length
            view = view[:length]
            while view:
                view = view[os.write(descriptor, view) :]

    def answer(self, fields: dict[str, object], descriptor: int, start: int, size: int) -> None:
        """Sends fields, and as body a part of a file."""
        head = protocol.pack(fields, size)
        if len(head) + size <= _PIPE_BYTES:  # in one piece: each piece wakes the Docker host and the judge
            length = os.preadv(descriptor, [self._through[:size]], start) if size else 0
            pieces = [head, self._through[:length]]
        else:
            length, pieces = 0, [head]
        written = os.writev(self.descriptor_out, pieces)
        if written != sum(map(len, pieces)):
            raise RuntimeError("a part of an answer was not taken")
        start, size = start + length, size - length
        while size:
            sent = os.sendfile(self.descriptor_out, descriptor, start, size)
            if not sent:
                raise RuntimeError("an output became shorter after its program ended")
            start, size = start + sent, size - sent

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = os.read(self.descriptor_in, min(size, _MIB))
            if not chunk:
                raise GoneError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)


def _forgetful_memory(size: int) -> memoryview:
    """Memory that a forked process finds empty."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_WIPEONFORK)
    return memoryview(memory)
