"""What is sent into a sandbox: the folder inside/, and nothing that a bare Python lacks."""

import ast
import marshal
import sys

import pytest

from nouscoder_jax.verifier.bundle import FOLDER, bundle

PACKAGE = "nouscoder_jax.verifier.inside"
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def imported(path):
    """Every module that the file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{PACKAGE}.{alias.name}" for alias in node.names} if node.module == PACKAGE else {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_inside_imports_the_standard_library_and_its_neighbours_only(path):
    allowed = sys.stdlib_module_names | {f"{PACKAGE}.{beside.stem}" for beside in MODULES}
    assert {name for name in imported(path) if {name, name.partition(".")[0]}.isdisjoint(allowed)} == set()


@pytest.mark.parametrize("compiled", [True, False])
def test_the_bundle_is_the_whole_folder(compiled):
    names = [name for name, _ in marshal.loads(bundle(compiled=compiled)) if name.startswith(PACKAGE + ".")]
    assert sorted(names) == [f"{PACKAGE}.{path.stem}" for path in MODULES]


def test_a_module_comes_after_those_that_it_imports():
    names = [name for name, _ in marshal.loads(bundle(compiled=False))]
    for path in MODULES:
        needed = {name for name in imported(path) if name.startswith(PACKAGE)}
        assert needed <= set(names[: names.index(f"{PACKAGE}.{path.stem}")]), path.stem
