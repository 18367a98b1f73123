"""Safetensors files that are written at several places at once: each tensor's bytes go where its header says.

In: headers, tensors or parts of them, in any order and from any thread. Out: the files, on the disk.

weights_writer.py is for exports: it gathers from devices and hashes what it writes, in file order. Here tensors come
from a disk, are checked when they are read, and a file may be anyone's: its header is given to the byte.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import DTYPES, parse_header
from nouscoder_jax.model.blocks import BLOCK_BYTES, first_nan, write_at
from nouscoder_jax.model.converted import NUMPY_DTYPES


class HfWriter:
    """Files under way. Use it in `with`."""

    def __init__(self, folder: Path, headers: dict[str, bytes]) -> None:
        """Makes the files, each with its header. Raises OSError."""
        self._handles: dict[str, int] = {}
        self.places = {place.name: (file, place) for file, header in headers.items() for place in parse_header(header)}
        for file, header in headers.items():
            self._handles[file] = os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            write_at(self._handles[file], np.frombuffer(header, np.uint8), 0)

    def write_block(self, name: str, first: int, block: Shaped[np.ndarray, " bytes"], *, dtype: str) -> None:
        """Writes whole numbers of a tensor, cast to its file's dtype; `first` is the byte in `dtype` that they begin
        with. Raises OSError."""
        file, place = self.places[name]
        if dtype != place.dtype:
            block = block.view(NUMPY_DTYPES[dtype]).astype(NUMPY_DTYPES[place.dtype]).view(np.uint8)
            first = first // DTYPES[dtype].itemsize * DTYPES[place.dtype].itemsize
        write_at(self._handles[file], block, place.first + first)

    def write(self, name: str, first: int, array: Shaped[np.ndarray, ...], *, source: Path) -> None:
        """Writes a contiguous array, rows of a tensor from byte `first` on, and has it on the disk. Raises OSError, and
        UserError where it holds a NaN, which names `source`."""
        dtype, data = array.dtype.name, array.reshape(-1).view(np.uint8)
        scratch = np.empty(BLOCK_BYTES, np.uint8)
        for at in range(0, data.size, BLOCK_BYTES):
            block = data[at : at + BLOCK_BYTES]
            if (found := first_nan(block, dtype, scratch)) is not None:
                number = (first + at) // DTYPES[dtype].itemsize + found
                raise nan_error(source, name, number, self.places[name][1].shape)
            self.write_block(name, first + at, block, dtype=dtype)
        self.sync(name)

    def sync(self, name: str) -> None:
        """Returns once what was written to the file of this tensor is on the disk. Raises OSError."""
        os.fdatasync(self._handles[self.places[name][0]])

    def __enter__(self) -> HfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)


def nan_error(source: Path, name: str, number: int, shape: tuple[int, ...]) -> UserError:
    """What to say of a NaN: the `number`-th of a tensor of this shape."""
    index = [int(at) for at in np.unravel_index(number, shape)]
    return UserError(
        f"{source}: tensor {name} is NaN at {index}; the weights are spoilt, take an earlier or other copy"
    )
