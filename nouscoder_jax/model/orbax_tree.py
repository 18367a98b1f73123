"""An Orbax checkpoint whose arrays are filled in afterwards: Orbax and zarr write what describes them, and no more.

In: a layout a parameter. Out: a folder that `orbax.checkpoint.StandardCheckpointer().restore` gives back as a nested
dict of arrays under our names, once its chunk files are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from nouscoder_jax.model.chunks import Layout


class _Array:
    """A leaf of the tree: an array that is not there yet."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout


class _Handler(ocp.type_handlers.NumpyHandler):
    """Orbax's way to say how a leaf is written: as empty arrays, which are read as NumPy's. What is read onto devices
    is read by Orbax's own handler, when it is asked for that."""

    async def serialize(self, values: Sequence[Any], infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            metadata = value.layout.metadata()
            store = {"driver": "file", "path": str(info.parent_dir / info.name)}
            await tensorstore.open({"driver": "zarr3", "kvstore": store, "metadata": metadata, "create": True})
        return []


def create_tree(folder: Path, layouts: dict[str, Layout]) -> None:
    """Makes `folder` with everything but the chunks. Raises OSError where it cannot be written."""
    tree: dict[str, Any] = {}
    for name, layout in layouts.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = _Array(layout)
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax warns that there is neither OCDBT nor jax.Array: none was asked for
    try:
        registry = ocp.type_handlers.create_type_handler_registry((_Array, _Handler()))
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True, type_handler_registry=registry)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
    finally:
        logging.set_verbosity(level)
