"""Bytes of weights from file to file, a block at a time: each block is looked at while it is in the core's cache.

In: ranges of files. Out: the same bytes elsewhere, the first NaN; a line on how far it is. No more than a block a
thread is in memory, whatever the size of the tensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nouscoder_jax.config import UserError

BLOCK_BYTES = 1 << 20
"""Read, checked and written at a time; 4 MiB fall out of a core's cache and take twice the CPU."""
WORKERS = 3
"""Jobs under way: on two cores one of them is waiting for the disk most of the time."""

_NAN = {"bfloat16": (np.uint16, 0xFF00), "float16": (np.uint16, 0xF800), "float32": (np.uint32, 0xFF000000)}
"""A number's bits without their sign are a NaN's where they are above an infinity's; shifted left, the sign is gone."""


class Job(NamedTuple):
    """A part of the work that does not depend on others."""

    num_bytes: int
    work: Callable[[], None]


def read_blocks(path: Path, first: int, num_bytes: int, *, what: str) -> Iterator[UInt8[np.ndarray, " bytes"]]:
    """The bytes of a part of a file, in blocks that last until the next one is asked for. Raises UserError, which
    names the file and `what` it is to hold, where it cannot be read or ends too soon."""
    buffer = np.empty(min(BLOCK_BYTES, num_bytes), np.uint8)
    view = buffer.data
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot read {path} with {what} ({error.strerror}); put the file back") from error
    try:
        end = first + num_bytes
        while first < end:
            try:
                got = os.preadv(handle, [view[: min(len(buffer), end - first)]], first)
            except OSError as error:
                raise UserError(f"cannot read {what} in {path} ({error.strerror}); is the disk sound?") from error
            if not got:
                raise UserError(f"{path} is truncated within {what}: it ends {end - first} bytes too soon")
            # Numbers are whole: a read from a file comes short at its end only, which is an error next time round.
            yield buffer[:got]
            first += got
    finally:
        os.close(handle)


def first_nan(block: UInt8[np.ndarray, " bytes"], dtype: str, scratch: UInt8[np.ndarray, " room"]) -> int | None:
    """Index of the first NaN among the numbers of a block. `scratch` is at least as large and is overwritten."""
    kind, infinity = _NAN[dtype]
    numbers = block[: block.size - block.size % kind().itemsize].view(kind)
    shifted = scratch[: numbers.nbytes].view(kind)
    np.left_shift(numbers, kind(1), out=shifted)
    if not numbers.size or shifted.max() <= infinity:
        return None
    return int(np.argmax(shifted > infinity))


def write_at(handle: int, data: UInt8[np.ndarray, " bytes"], at: int) -> None:
    """Writes all of it at a place of an open file. Raises OSError."""
    view = data.data
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written


def run_jobs(jobs: Sequence[Job], *, num_workers: int, say: Callable[[str], None]) -> None:
    """Does all of them, in their order, a few at a time, and says how far it is. The first failure ends it: jobs that
    have not begun are dropped, it is raised once the others have ended."""
    total, done, start = sum(job.num_bytes for job in jobs), 0, time.monotonic()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="convert")
    try:
        running = {pool.submit(job.work): job.num_bytes for job in jobs}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                done += running.pop(future)
                future.result()
            rate = done / max(time.monotonic() - start, 1e-3)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            say(f"{done / 1e9:.2f} of {total / 1e9:.2f} GB, {rate / 1e9:.2f} GB/s{left}")
    finally:
        pool.shutdown(cancel_futures=True)
