"""Weights of a folder, read a part at a time: a process takes what lies on its devices and nothing else.

In: a Hugging Face directory, or one that from-hf has converted. Out: `WeightsReader.block`: any part of one of our
parameters as float32. All headers are checked before a weight is read, all weights when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, Shaped

from nouscoder_jax.config import UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.model.converted import NUMPY_DTYPES, Converted, is_converted, read_converted
from nouscoder_jax.model.hf_files import EMBEDDING, TIED_HEAD, HfFiles, read_files
from nouscoder_jax.model.name_table import NAME_TABLE, Entry, abstract_model, to_ours
from nouscoder_jax.model.qwen3 import param_name

Index = Sequence[slice]
"""A part of an array, one slice a dimension, as a sharding gives it."""


class WeightsReader:
    """The weights of one folder."""

    def __init__(self, folder: Path, architecture: Architecture, *, only_finite: bool = True) -> None:
        """Reads the headers. `only_finite`: other weights are refused when they are read. Raises UserError: what is
        truncated, missing, too much, misshapen, by tensor and file."""
        self.folder, self.architecture, self._only_finite = folder, architecture, only_finite
        self._converted: Converted | None = read_converted(folder, architecture) if is_converted(folder) else None
        self.files: HfFiles = self._converted.files if self._converted else read_files(folder, architecture)
        self.shapes = {
            param_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(abstract_model(architecture))
        }

    def block(self, name: str, index: Index) -> Float32[np.ndarray, ...]:
        """A part of the parameter with our `name`, in memory of its own.

        Raises:
            UserError: a damaged file, a weight that is not finite, an lm_head that is tied and differs.
        """
        entry, shape = NAME_TABLE[name], self.shapes[name]
        if "{layer}" not in entry.hf_name:
            return np.array(self._part(entry.hf_name, entry, shape, index))
        layers = range(*index[0].indices(shape[0]))
        parts = (self._part(entry.hf_name.format(layer=layer), entry, shape[1:], index[1:]) for layer in layers)
        whole: np.ndarray | None = None
        for number, part in enumerate(parts):
            whole = np.empty((len(layers), *part.shape), np.float32) if whole is None else whole
            whole[number] = part
        assert whole is not None, f"no layers in {index}"
        return whole

    def _part(self, hf_name: str, entry: Entry, shape: tuple[int, ...], index: Index) -> np.ndarray:
        where, part_shape = _in_theirs(entry, shape, index)
        part = np.asarray(self._tensor(hf_name)[where], np.float32)
        if self._only_finite and not np.isfinite(part).all():
            raise UserError(
                f"{self.folder}: tensor {hf_name} has weights that are not finite; they are spoilt, take an earlier or "
                "other copy"
            )
        is_tied = hf_name == EMBEDDING and self._has_tied_head
        if is_tied and not np.array_equal(part, np.asarray(self._in_file(TIED_HEAD)[where], np.float32)):
            raise UserError(
                f"{self.folder} has an {TIED_HEAD} that differs from its embedding; set tie_word_embeddings to false"
            )
        return to_ours(part, entry, part_shape)

    @property
    def _has_tied_head(self) -> bool:
        """from-hf has compared it already."""
        is_tied = self.architecture.tie_word_embeddings and TIED_HEAD in self.files.places
        return is_tied and self._converted is None

    def _tensor(self, hf_name: str) -> Shaped[np.ndarray, ...]:
        """A tensor in its dtype and their layout."""
        return self._in_file(hf_name) if self._converted is None else self._converted.tensor(hf_name)

    def _in_file(self, hf_name: str) -> Shaped[np.ndarray, ...]:
        """The same, of which only what is looked at is read."""
        file, place = self.files.places[hf_name]
        dtype = NUMPY_DTYPES[place.dtype]
        return np.memmap(self.folder / file, dtype, mode="r", offset=place.first, shape=place.shape)


def _in_theirs(entry: Entry, shape: tuple[int, ...], index: Index) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Where a part of our array lies in their matrix or vector, and its shape in ours."""
    bounds = [one.indices(size)[:2] for one, size in zip(index, shape, strict=True)]
    part_shape = tuple(end - first for first, end in bounds)
    split = entry.input_dims
    if split:
        return (_flat(bounds[split:], shape[split:]), _flat(bounds[:split], shape[:split])), part_shape
    if "embed_tokens" in entry.hf_name or "lm_head" in entry.hf_name:
        return tuple(slice(*one) for one in bounds), part_shape
    return (_flat(bounds, shape),), part_shape


def _flat(bounds: Sequence[tuple[int, int]], shape: Sequence[int]) -> slice:
    """Dimensions that are one in theirs; only the first of them may be split."""
    if any(bound != (0, size) for bound, size in zip(bounds[1:], shape[1:], strict=True)):
        raise ValueError(f"a part {bounds} of {tuple(shape)} does not lie together in a Hugging Face file")
    inner = math.prod(shape[1:])
    return slice(bounds[0][0] * inner, bounds[0][1] * inner)
