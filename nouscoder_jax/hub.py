"""Where the files of a model lie on this machine: a folder, or the local copy of a hub id.

In: a folder, or the id of a model on the Hugging Face hub. Out: a folder. What is in the local cache needs no network.
"""

from __future__ import annotations

from pathlib import Path

from nouscoder_jax.config import UserError

_SMALL = ("*.json", "*.jinja", "*.txt")
"""Config, tokenizer and chat template."""


def find_model(path: str, *, weights: bool = True) -> Path:
    """The folder of a model: `path` itself, or the local copy of a hub id, which is fetched, with `weights` or without.

    Raises:
        UserError: neither a folder nor a hub id that can be fetched.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download  # here, not above: importing it takes half a second
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=[*_SMALL, *(["*.safetensors"] if weights else [])]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model.path {path!r} is neither a folder nor a hub id that can be fetched; check it"
        ) from error
