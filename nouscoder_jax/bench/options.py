"""Options that several benches have: types for argparse that refuse what cannot be before anything is measured.

In: a parser. Out: options declared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.config import UserError


def add_outputs(parser: argparse.ArgumentParser, *, block: str = "") -> None:
    """--out and --plot; --readme where there is a block of this name."""
    parser.add_argument("--out", type=_new_file, metavar="FILE", help="write every round as JSON")
    parser.add_argument("--plot", type=_new_file, metavar="FILE", help="write a picture (.png)")
    if block:
        told = f"write the table into its block `{block}`"
        parser.add_argument("--readme", type=_file_with(block), metavar="FILE", help=told)


def add_rounds(parser: argparse.ArgumentParser, *, rounds: int, quick: str, names: Sequence[str] = ()) -> None:
    """--rounds and --quick; --only where contenders have fixed names; the outputs."""
    help_of = f"turns of each contender (default: {rounds})"
    parser.add_argument("--rounds", default=rounds, type=at_least(1), metavar="N", help=help_of)
    parser.add_argument("--quick", action="store_true", help=f"1 round, {quick}: does it work?")
    if names:
        told = f"of {','.join(names)} (default: all)"
        parser.add_argument("--only", default=list(names), type=some_of(names), metavar="NAMES", help=told)
    add_outputs(parser)


def at_least(smallest: int) -> Callable[[str], int]:
    """A whole number that is no smaller."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= smallest):
            raise argparse.ArgumentTypeError(f"got {text}; use a whole number, {smallest} or more")
        return int(text)

    return number


def numbers(smallest: int) -> Callable[[str], list[int]]:
    """Whole numbers between commas, each once."""
    return lambda text: list(dict.fromkeys(map(at_least(smallest), text.split(","))))


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Names between commas, each once."""

    def names(text: str) -> list[str]:
        words = list(dict.fromkeys(word.strip() for word in text.split(",")))
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"got {' '.join(unknown)}; there are {', '.join(known)}")
        return words

    return names


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"got {path}, a folder; give a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"got {path}; its folder does not exist, make it first")
    return path


def _file_with(block: str) -> Callable[[str], Path]:
    def file(text: str) -> Path:
        path = Path(text)
        try:
            replace_block(path.read_text(encoding="utf-8"), block, "")
        except OSError as error:
            raise argparse.ArgumentTypeError(f"got {path} ({error.strerror}); give a file that exists") from error
        except UserError as error:
            raise argparse.ArgumentTypeError(f"got {path}: {error}") from error
        return path

    return file
