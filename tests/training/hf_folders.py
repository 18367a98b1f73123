"""Hugging Face directories of random weights, as the tests of conversion want them; and `scripts/convert.py` run."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from small import make_architecture

from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.name_table import abstract_model, hf_pieces

ROOT = Path(__file__).resolve().parents[2]
INDEX = "model.safetensors.index.json"


def architecture(**fields) -> Architecture:
    """Qwen3-0.6B or Qwen3-14B, shrunk: no two dimensions are equal."""
    small = {
        "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_layers": 3, "head_dim": 10,
        "tie_word_embeddings": False, "max_position_embeddings": 128,
    }  # fmt: skip
    return make_architecture(**(small | fields))


def tensors_of(shape: Architecture, *, dtype=ml_dtypes.bfloat16) -> dict[str, np.ndarray]:
    """Random finite weights by their names; every bit pattern that is no NaN may come."""
    rng = np.random.default_rng(0)
    found = {}
    for name, piece in hf_pieces(abstract_model(shape)).items():
        bits = rng.integers(0, 0x7F81, piece.shape, np.uint16) | rng.choice([0, 0x8000], piece.shape).astype(np.uint16)
        found[name] = bits.view(ml_dtypes.bfloat16).astype(dtype)
    return found


def write_shards(folder: Path, tensors: dict[str, np.ndarray], *, num_files: int) -> None:
    """The safetensors of a folder, with an index where there are several."""
    names = sorted(tensors)
    files = {
        name: f"model-{at * num_files // len(names) + 1:05d}-of-{num_files:05d}.safetensors"
        for at, name in enumerate(names)
    }
    if num_files == 1:
        files = dict.fromkeys(names, "model.safetensors")
    else:
        content = {"metadata": {"total_size": sum(one.nbytes for one in tensors.values())}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(content, indent=2, sort_keys=True))
    for file in set(files.values()):
        held = {name: tensors[name] for name in names if files[name] == file}
        safetensors.numpy.save_file(held, folder / file, metadata={"format": "pt"})


def make_folder(folder: Path, shape: Architecture, tensors: dict[str, np.ndarray], *, num_files: int) -> Path:
    """A whole directory: config, tokenizer, weights, and what else a download brings along."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.to_hf() | {"torch_dtype": "bfloat16"}))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(ROOT / "configs/tiny/policy" / name, folder / name)
    (folder / "README.md").write_text("Größe: 14B\n", encoding="utf-8")
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(bytes(range(256)))
    write_shards(folder, tensors, num_files=num_files)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_shard(folder: Path, file: str, change) -> None:
    """Rewrites a file with `change(tensors)`; the index stays."""
    tensors = change(safetensors.numpy.load_file(folder / file))
    safetensors.numpy.save_file(tensors, folder / file, metadata={"format": "pt"})


def run_script(monkeypatch, *arguments) -> int:
    """Exit code of scripts/convert.py, run in this process."""
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "convert.py"), run_name="__main__")
    return caught.value.code


def silent(_: str) -> None:
    """Takes what is said."""
