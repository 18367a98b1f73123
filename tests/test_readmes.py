"""The pages are true: links lead somewhere, files and options that they name exist, every command is understood, the
map is up to date, the front page is short."""

import ast
import os
import re
import shlex
import tomllib
import typing
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from nouscoder_jax import cli
from nouscoder_jax.bench.readme import replace_block, write_block
from nouscoder_jax.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md"]
PAGES += sorted(
    path for name in ("configs", "kernels", "nouscoder_jax", "tests") for path in (ROOT / name).rglob("README.md")
)
MAP_PAGE = ROOT / "nouscoder_jax/README.md"
OWN_FOLDERS = ("tests/", "configs/", "scripts/", "nouscoder_jax/", "kernels/", "verifier/")


class Understood(BaseException):
    """The command line was read; whatever the script would do now is left out. No `except Exception` stops it."""


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def prose(path: Path) -> str:
    """The page without its code blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def spans(path: Path) -> list[str]:
    """What stands between backticks; line breaks are blanks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def commands(path: Path) -> list[str]:
    """Lines of the page's sh blocks without their comments, and its inline commands."""
    blocks = [block for language, block in fences(path.read_text(encoding="utf-8")) if language == "sh"]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [span for span in spans(path) if re.match(r"(\.venv/bin/)?python scripts/|make \w|pip install ", span)]
    return [bare for line in lines if (bare := " ".join(shlex.split(line, comments=True)))]


COMMANDS = sorted({(page_name(page), command) for page in PAGES for command in commands(page)})


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{name}-{n}" if n else name) not in found)
        found.add(f"{name}-{number}" if number else name)
    return found


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"\w+://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


def missing_files(path: Path) -> list[str]:
    """Files of this repository that are named between backticks, from its root, the package or the page's folder."""
    named = [span for span in spans(path) if re.fullmatch(r"[\w./-]+\.(py|json|jsonl|md|png|sh|sbatch)", span)]
    named = [span for span in named if span.startswith(OWN_FOLDERS) or ("/" in span and span.endswith(".py"))]
    folders = (ROOT, ROOT / "nouscoder_jax", path.parent)
    return [span for span in named if not any((folder / span).exists() for folder in folders)]


def unknown_options(path: Path) -> list[str]:
    """`--option`, alone or with a value, and options in comments of sh blocks, that no script declares."""
    comments = [
        line.partition(" #")[2]
        for language, block in fences(path.read_text(encoding="utf-8"))
        if language == "sh"
        for line in block.splitlines()
    ]
    named = {span.split()[0] for span in spans(path) if span.startswith("--")}
    named |= {word for comment in comments for word in re.findall(r"(?<!\S)--[a-z-]+\b(?![.=])", comment)}
    sources = [*(ROOT / "scripts").glob("*.py"), ROOT / "nouscoder_jax/cli.py"]
    for folder in ("bench", "planning", "data", "evaluation"):
        sources += (ROOT / "nouscoder_jax" / folder).rglob("*.py")
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    made = (ROOT / "scripts/verify.py").read_text(encoding="utf-8")  # some of its options, of names in a row
    return sorted(name for name in named if "." not in name and f'"{name}"' not in text and f'"{name[2:]}"' not in made)


def config_fields() -> set[str]:
    fields = set()
    for section, cls in typing.get_type_hints(TrainConfig).items():
        fields |= {f"{section}.{name}" for name in typing.get_type_hints(cls)} if isinstance(cls, type) else {section}
    return fields


def unknown_fields(path: Path) -> list[str]:
    """`--section.field`, `--section.field VALUE` and `section.field` of sections that a config has."""
    fields = config_fields()
    sections = {field.partition(".")[0] for field in fields if "." in field}
    named = [word for span in spans(path) for word in re.findall(r"(?:--)?[a-z_]+\.[a-z_-]+\b(?!\()", span)]
    bare = [word.removeprefix("--").replace("-", "_") for word in named]
    suffixes = (".py", ".json", ".jsonl", ".md", ".png")
    return [
        name
        for name in bare
        if name.partition(".")[0] in sections and name not in fields and not name.endswith(suffixes)
    ]


def first_sentence(path: Path) -> str:
    """Of the module's docstring, without its full stop."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.])\.(?: |$)|: ?(?=python scripts/)", paragraph)[0]
    return sentence.rstrip(":").replace("|", r"\|")


def house_map() -> str:
    """A table a folder, a line a module: what it is called, what its first sentence says."""
    folders = [ROOT / "nouscoder_jax", *sorted(p.parent for p in (ROOT / "nouscoder_jax").rglob("*/__init__.py"))]
    folders += [ROOT / "kernels/nouscoder_kernels", ROOT / "scripts", ROOT / "configs"]
    parts = []
    for folder in folders:
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        opens = folder / "__init__.py"
        says = f"{first_sentence(opens)}.\n\n" if opens.exists() else ""
        rows = [
            f"| [`{path.name}`]({os.path.relpath(path, MAP_PAGE.parent)}) | {first_sentence(path)} |"
            for path in modules
        ]
        parts.append(f"### {page_name(folder)}/\n\n{says}| module | |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(dict.fromkeys(parts))


def test_the_map_is_made_of_the_first_sentences_of_all_modules():
    block = house_map()
    if os.environ.get("UPDATE_MAP"):
        write_block(MAP_PAGE, "map", block)
    text = MAP_PAGE.read_text(encoding="utf-8")
    up_to_date = replace_block(text, "map", block) == text
    assert up_to_date, "a module has changed: UPDATE_MAP=1 make test ARGS=tests/test_readmes.py writes the map anew"


def test_the_map_names_every_module_script_and_config():
    text = MAP_PAGE.read_text(encoding="utf-8")
    modules = [*(ROOT / "nouscoder_jax").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    modules += [*(ROOT / "scripts").glob("*.py"), *(ROOT / "configs").glob("*.py")]
    names = [os.path.relpath(path, MAP_PAGE.parent) for path in modules if path.name != "__init__.py"]
    assert [name for name in names if f"]({name})" not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_leads_to_a_file_and_its_heading(path):
    assert broken_links(path) == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_file_that_is_named_exists(path):
    assert missing_files(path) == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_option_that_is_named_is_one_of_a_script(path):
    assert unknown_options(path) == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_field_that_is_named_is_one_of_the_config(path):
    assert unknown_fields(path) == []


@pytest.mark.parametrize("path", PAGES[1:], ids=page_name)
def test_the_front_page_or_the_packages_page_links_to_every_other(path):
    linked = {(PAGES[0].parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", prose(PAGES[0]))}
    assert path in linked


def test_the_front_page_has_at_most_200_lines_of_120_characters():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_stand_in_sh_blocks_where_they_are_checked(path):
    text = path.read_text(encoding="utf-8")
    others = [line for language, block in fences(text) if language != "sh" for line in block.splitlines()]
    others += re.findall(r"^    .*$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    assert [line for line in others if re.match(r"\s*(\S+/)?(python3?|make|pip|sbatch) ", line)] == []


def run_script(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own main, up to where its command line has been read. Raises what the script would tell."""
    path = ROOT / command[0]
    spec = spec_from_file_location(f"script_{path.stem}", path)
    assert spec and spec.loader, f"{command[0]} does not exist"
    load, tiny = cli.load, cli.load_config_file(ROOT / "configs/tiny.py")

    def loaded(*arguments, **options):
        load(*arguments, **options)
        raise Understood

    def parsed(parser, arguments=None, namespace=None):
        options, rest = parser.parse_known_args(arguments, namespace)
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        raise Understood

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr(cli, "load", loaded)
    monkeypatch.setattr(cli, "_stored_config", lambda run_dir, option: tiny)
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", parsed)
    for name in ("JAX_PLATFORMS", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"):  # scripts/plan.py sets them
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets
    for word in words:
        if "=" in word:
            assert re.search(rf"\$\({word.partition('=')[0]}\)", makefile), word
        else:
            assert word in targets[1].split(), word


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    words = [word for word in words if word not in ("install", "-e")]
    assert words
    for word in words:
        match = re.fullmatch(r"(\.|[\w-]+)(?:\[([\w,]+)\])?", word)
        assert match, word
        assert match[1] in (".", project["name"]), word
        assert not match[2] or set(match[2].split(",")) <= set(project["optional-dependencies"]), word


def check_variables(words: list[str]) -> list[str]:
    """The command behind NAME=VALUE words, each of which something in tests/ reads."""
    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        name = words.pop(0).partition("=")[0]
        assert any(name in path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")), name
    return words


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=str)
def test_every_command_is_understood(page, command, monkeypatch, capsys):
    words = check_variables(shlex.split(command))
    program, *rest = words
    if re.fullmatch(r"(\.venv/bin/)?python", program) and rest[0].startswith("scripts/"):
        with pytest.raises((Understood, SystemExit)) as ended:
            run_script(rest, monkeypatch)
        told = capsys.readouterr().err
        assert isinstance(ended.value, Understood) or ended.value.code == 0, told
    elif program == "python" and rest[:2] == ["-m", "pytest"]:
        paths = [word for word in rest[2:] if word.startswith("tests")]
        assert [path for path in paths if not (ROOT / path).exists()] == []
    elif program == "make":
        check_make(rest)
    elif re.fullmatch(r"(\w+/bin/)?pip", program):
        check_pip(rest)
    elif program == "sbatch":
        assert (ROOT / rest[0]).is_file()
    elif program == "python3.11":
        assert rest[:2] == ["-m", "venv"]
    else:
        assert (ROOT / program).is_file(), f"{page}: nobody knows how to check {command!r}"
