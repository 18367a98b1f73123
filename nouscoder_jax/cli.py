"""The command line of every script: a config file, overrides of its fields, and one clear line for every mistake.

In: argv, a config file with `get_config()`. Out: a validated TrainConfig with usable paths; exit codes.
Standard library and tyro only; importing this never imports jax. Every script imports this first: where the extra
`train` is not installed, the import itself ends the process with one line.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import io
import itertools
import os
import select
import shlex
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TextIO

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.run_folder import RunFolder

_EXTRAS = {"plotly": "report", "wandb": "wandb"}
"""Package -> the extra that brings it; the others come with `train`."""


def _how_to_install(extra: str) -> str:
    return f"pip install 'nouscoder-jax[{extra}]', in a checkout pip install -e '.[{extra}]'"


try:
    import tyro

    from nouscoder_jax.types import (
        ConservationError,
        DivergedError,
        DriftError,
        EngineError,
        JudgeError,
        ProcessLostError,
    )
except ModuleNotFoundError as error:
    if not error.name or error.name.startswith("nouscoder"):
        raise
    print(
        f"error: {error.name} is not installed; scripts need the extra train: {_how_to_install('train')}",
        file=sys.stderr,
    )
    sys.exit(2)

PATH_FIELDS = (("data", "problems"), ("data", "held_out"), ("model", "path"))
"""Fields that a config file may give relative to its own folder."""

_KINDS = {
    JudgeError: "the judge failed",
    EngineError: "the engine failed",
    DriftError: "too much drift",
    DivergedError: "training diverged",
    ConservationError: "rollouts do not add up",
    ProcessLostError: "a process is gone",
}
"""How a failure that is nobody's mistake is told."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def make_parser(description: str, *, default_config: str) -> argparse.ArgumentParser:
    """A parser with --config and --help, to which a script adds options of its own before `load`."""
    parser = _Parser(description=description, allow_abbrev=False, add_help=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--config", default=default_config, metavar="FILE", help=f"config file (default: {default_config})"
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help and exit")
    return parser


def load(
    parser: argparse.ArgumentParser, argv: Sequence[str], *, run_option: str = "resume"
) -> tuple[TrainConfig, argparse.Namespace]:
    """The config that argv asks for, and the script's own options.

    `run_option`: the name of a script option that takes a run folder. Where the parser has it and argv gives it,
    RUN_DIR/config.json counts in place of the config file; overrides count on top of it. `--help` prints and exits with
    0. Raises UserError.
    """
    options, overrides = parser.parse_known_args(list(argv))
    run_dir = getattr(options, run_option, None)
    if run_dir:
        if any(argument == "--config" or argument.startswith("--config=") for argument in argv):
            raise UserError(f"got --config and --{run_option} {run_dir}; a run keeps its own config: drop --config")
        base = _stored_config(Path(run_dir), run_option)
    else:
        base = load_config_file(Path(options.config))
    if options.help:
        print(parser.format_help())
        print("Every field of the config can be overridden; defaults below are those of the chosen config.\n")
        apply_overrides(base, ["--help"])
    return apply_overrides(base, overrides), options


def load_config_file(path: Path) -> TrainConfig:
    """What `get_config()` of the file returns, its relative paths resolved against the file's folder where they exist.

    Raises UserError when the file is missing, fails, lacks `get_config` or contradicts itself.
    """
    if not path.is_file():
        beside = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = f"; there are {', '.join(beside)}" if beside else ""
        raise UserError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"nouscoder_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path} is not a Python file; use one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"config file {path} has no get_config(); define get_config() -> TrainConfig in it")
        config = module.get_config()
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"config file {path} contradicts itself: {_one_line(error)}") from error
    except Exception as error:  # the file is a program of the user's; whatever it raises is theirs to mend
        raise UserError(f"config file {path} fails with {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, TrainConfig):
        raise UserError(f"get_config() of {path} returned {type(config).__name__}; it must return a TrainConfig")
    return resolve_paths(config, folder=path.resolve().parent)


def resolve_paths(config: TrainConfig, *, folder: Path) -> TrainConfig:
    """The config with PATH_FIELDS made absolute where they name something in `folder`; others are left as they are."""
    for section_name, field in PATH_FIELDS:
        section = getattr(config, section_name)
        value = getattr(section, field)
        if value and (folder / value).exists():
            section = dataclasses.replace(section, **{field: str((folder / value).resolve())})
            config = dataclasses.replace(config, **{section_name: section})
    return config


def apply_overrides(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """The config with fields replaced by `--section.field VALUE` arguments (dashes or underscores).

    Raises UserError that names the field: unknown (with the nearest one), of another type, or contradicting others.
    """
    hints = _field_types(TrainConfig)
    plain = _plain_class(TrainConfig, "TrainConfig")
    arguments = [_without_underscores(argument) for argument in arguments]
    default = _to_plain(config, plain)
    if "--help" in arguments:
        tyro.cli(plain, default=default, args=["--help"], description="", prog=Path(sys.argv[0]).name)
    grouped = _group(arguments, hints)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            values = tyro.cli(plain, default=default, args=arguments)
    except SystemExit:
        raise UserError(_wrong_value(grouped, hints, plain, default)) from None
    try:
        return _from_plain(TrainConfig, values)
    except ValueError as error:
        raise UserError(_one_line(error)) from error


def options_between(before: TrainConfig, after: TrainConfig) -> list[str]:
    """The arguments with which `apply_overrides` makes `after` of `before`, one a field, quoted for a shell."""
    old = before.flatten()
    return [_option(field, value) for field, value in after.flatten().items() if value != old[field]]


def _option(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        section, dot, last = name.rpartition(".")
        return f"--{name}" if value else f"--{section}{dot}no-{last}"
    values = value if isinstance(value, list) else [value]
    return " ".join([f"--{name}", *(shlex.quote(str(one)) for one in values)])


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and exits with what it returns (None: 0).

    A UserError, or a package that is not installed, exits with 2; a failure of the judge or the engine, too much drift
    between engine and trainer, updates that are not finite, or the loss of another process of the run with 1; each
    after one line on stderr. Ctrl-C with 130. Where whoever reads stdout or stderr is gone (`| head`), 141 and nothing
    is said, as for a program that SIGPIPE ends.
    """
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not gone:  # another pipe: a fault of ours
            raise
        for stream in gone:  # what is flushed at exit goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except SystemExit as asked:  # --help
        if isinstance(asked.code, int | None):
            return asked.code or 0
        raise
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except tuple(_KINDS) as error:
        kind = next(told for kind, told in _KINDS.items() if isinstance(error, kind))
        print(f"error: {kind}: {_one_line(error)}", file=sys.stderr)
        if isinstance(error, ProcessLostError):  # threads may wait for it for ever, and so would whoever ends jax
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("nouscoder"):  # a fault of ours
            raise
        extra = _EXTRAS.get(error.name, "train")
        print(
            f"error: {error.name} is not installed; the extra {extra} brings it: {_how_to_install(extra)}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _stored_config(run_dir: Path, option: str) -> TrainConfig:
    config = RunFolder(path=run_dir).read_config(option=f"--{option}")
    return dataclasses.replace(config, run_dir=str(run_dir))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _without_underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _field_types(cls: type) -> dict[str, Any]:
    """`section.field-name` -> its type, for every leaf."""
    types: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        option = name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            types |= {
                f"{option}.{inner}": inner_hint for inner, inner_hint in _field_types(typing.cast(type, hint)).items()
            }
        else:
            types[option] = hint
    return types


def _field_docs(cls: type) -> dict[str, str]:
    """Field name -> the string that stands below it in the source."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs


def _plain_class(cls: type, name: str) -> type:
    """A dataclass with the fields of `cls` and none of its checks, so that all values are read before any is judged."""
    docs = _field_docs(cls)
    fields = []
    for field, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            hint = _plain_class(typing.cast(type, hint), field)
        fields.append((field, Annotated[hint, tyro.conf.arg(help=docs.get(field, ""))]))
    plain = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    plain.__doc__ = cls.__doc__
    return plain


def _to_plain(value: Any, plain: type) -> Any:
    hints = typing.get_type_hints(plain)
    values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return plain(**{k: _to_plain(v, hints[k]) if dataclasses.is_dataclass(v) else v for k, v in values.items()})


def _from_plain(cls: type, plain: Any) -> Any:
    hints = typing.get_type_hints(cls)
    values = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return cls(**{k: _from_plain(hints[k], v) if dataclasses.is_dataclass(v) else v for k, v in values.items()})


def _group(arguments: Sequence[str], hints: dict[str, Any]) -> list[list[str]]:
    """Arguments as [option, value, ...] lists; raises UserError for a field that does not exist or a stray value."""
    grouped: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            if _field_of(name, hints) is None:
                raise UserError(f"unknown option --{name}{_nearest(name, hints)}")
            grouped.append([argument])
        elif grouped:
            grouped[-1].append(argument)
        else:
            raise UserError(f"got {argument!r} where an option was expected; fields are set as --section.field VALUE")
    return grouped


def _field_of(name: str, hints: dict[str, Any]) -> str | None:
    """The field that option `name` sets; `section.no-flag` sets the field `section.flag`."""
    positive = ".".join(part.removeprefix("no-") for part in name.split("."))
    if name in hints:
        return name
    return positive if hints.get(positive) is bool else None


def _nearest(name: str, hints: dict[str, Any]) -> str:
    last = name.rpartition(".")[2]
    same_field = [field for field in hints if field.rpartition(".")[2] == last]
    short = [field for field in hints if _initials(field) == name.replace("-", "")]
    near = same_field or short or difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
    if not near:
        by_field = {field.rpartition(".")[2]: field for field in hints}
        near = [by_field[found] for found in difflib.get_close_matches(last, by_field, n=1, cutoff=0.5)]
    return f"; did you mean {' or '.join('--' + field for field in near)}?" if near else "; --help lists all fields"


def _initials(field: str) -> str:
    """`optimizer.learning-rate` -> `optimizer.lr`."""
    section, dot, last = field.rpartition(".")
    return section + dot + "".join(word[0] for word in last.split("-"))


def _takes(hint: Any, field: str) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "any number of values separated by blanks"
    if hint is bool:
        section, dot, last = field.rpartition(".")
        return f"no value: --{field} turns it on, --{section}{dot}no-{last} turns it off"
    return {int: "a whole number", float: "a number", str: "a text"}.get(hint, str(hint))


def _wrong_value(grouped: list[list[str]], hints: dict[str, Any], plain: type, default: Any) -> str:
    """One line on the first option that cannot be read on its own."""
    for group in grouped:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                tyro.cli(plain, default=default, args=group)
        except SystemExit:
            name, _, attached = group[0][2:].partition("=")
            field = _field_of(name, hints) or name
            got = " ".join(([attached] if attached else []) + group[1:])
            return f"--{name} got {repr(got) if got else 'no value'}; it takes {_takes(hints[field], field)}"
    return f"cannot read {' '.join(' '.join(group) for group in grouped)!r}; see --help"
