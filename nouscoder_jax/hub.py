"""Where the files of a model or data set lie on this machine: a folder, or the local copy of a hub id.

In: a folder, or an id on the Hugging Face hub. Out: a folder, or files. What is in the local cache needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def find_dataset_files(name: str, wants: Callable[[str], bool], wanted: Sequence[str]) -> list[Path]:
    """Local copies of those files of a data set, OWNER/NAME or OWNER/NAME@REVISION, that `wants` takes by their names.

    `wanted`: what that is, for people. Raises UserError: no such data set, no network, or no such files.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    where = {"repo_type": "dataset", "revision": revision or None}
    try:
        files = sorted(filter(wants, HfApi().list_repo_files(repo, **where)))
        if not files:
            raise UserError(f"the data set {name} has no file like {', '.join(wanted)} of that name; check the pattern")
        return [Path(hf_hub_download(repo, file, **where)) for file in files]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"the data set {name!r} cannot be fetched ({reason}); check its id, or download it") from error
