"""A folder on the disk to measure, and in it a Hugging Face directory of random bytes in the shape of a Qwen3.

In: an architecture, a folder. Out: config.json, tokenizer and bf16 safetensors with an index, as a download has them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nouscoder_jax.config import UserError
from nouscoder_jax.manifest import hash_range, parse_header
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import NAME_TABLE
from nouscoder_jax.training.convert import plan_headers, write_headers_index

SHARD_GB = 4.0
"""Files as large as Qwen3's on the hub."""

_TOKENIZER = Path(__file__).parents[3] / "configs" / "tiny" / "policy"
_BLOCK_BYTES = 16 << 20
_NOT_NAN = np.uint16(0xBFFF)
"""Without the exponent's highest bit a bf16 is neither NaN nor infinite."""


@contextmanager
def folder_on(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, deleted in the end. Raises UserError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="nouscoder-bench-", dir=parent)
    except OSError as error:
        raise UserError(f"--folder got {parent} ({error.strerror}); give one that you may write to") from error
    with folder as path:
        yield Path(path)


def write_random(folder: Path, architecture: Architecture) -> int:
    """Makes the folder, and returns the bytes of its safetensors."""
    folder.mkdir()
    config = architecture.to_hf() | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(_TOKENIZER / name, folder / name)
    headers = plan_headers(architecture, dict.fromkeys(NAME_TABLE, "bfloat16"), SHARD_GB)
    write_headers_index(folder, headers)
    random = np.random.Generator(np.random.SFC64(0))
    for file, header in headers.items():
        left = parse_header(header)[-1].end - len(header)
        with (folder / file).open("wb") as out:
            out.write(header)
            while left:
                size = min(left, _BLOCK_BYTES)
                bits = random.integers(0, 1 << 64, -(-size // 8), np.uint64).view(np.uint16) & _NOT_NAN
                out.write(bits.view(np.uint8)[:size].data)
                left -= size
    return sum((folder / file).stat().st_size for file in headers)


def hash_of(folder: Path) -> str:
    """One hash of every file of a folder, names included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [[str(path.relative_to(folder)), hash_range(path, 0, path.stat().st_size)] for path in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()
