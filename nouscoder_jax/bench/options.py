"""Options that several benches have, and how they are checked.

In: a parser; parsed options. Out: options declared; UserError, in one line, for what cannot be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.config import UserError


def add_outputs(parser: argparse.ArgumentParser, *, plot: bool = False, block: str = "") -> None:
    """--out; --plot where there is a picture; --readme where there is a block of this name."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every round as JSON")
    if plot:
        parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (.png)")
    if block:
        parser.add_argument("--readme", type=Path, metavar="FILE", help=f"write the table into its block `{block}`")


def check_outputs(options: argparse.Namespace, *, block: str = "") -> None:
    """Before hours of measuring, not after. Raises UserError."""
    for name in ("out", "plot"):
        path = getattr(options, name, None)
        if path and not path.parent.is_dir():
            raise UserError(f"--{name} got {path}; its folder does not exist, make it first")
        if path and path.is_dir():
            raise UserError(f"--{name} got {path}, a folder; give a file")
    if block and options.readme:
        if not options.readme.is_file():
            raise UserError(f"--readme got {options.readme}; there is no such file")
        try:
            replace_block(options.readme.read_text(encoding="utf-8"), block, "")
        except UserError as error:
            raise UserError(f"--readme got {options.readme}: {error}") from error


def check_numbers(options: argparse.Namespace, *names: str, at_least: int = 1) -> None:
    """Raises UserError for one that is smaller."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < at_least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; use {at_least} or more")


def listed(text: str) -> list[str]:
    """The words between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def numbers(name: str, text: str, *, at_least: int = 0) -> list[int]:
    """Whole numbers between commas, each once. Raises UserError."""
    words = listed(text)
    if wrong := [word for word in words if not (word.isascii() and word.isdigit() and int(word) >= at_least)]:
        raise UserError(f"--{name} got {' '.join(wrong)}; use whole numbers from {at_least} on, with commas between")
    return list(dict.fromkeys(int(word) for word in words))


def chosen(name: str, text: str, known: Sequence[str]) -> list[str]:
    """The names that `text` lists, all of `known` where it lists none. Raises UserError for another."""
    words = listed(text)
    if unknown := [word for word in words if word not in known]:
        raise UserError(f"--{name} got {' '.join(unknown)}; there are {', '.join(known)}")
    return words or list(known)
