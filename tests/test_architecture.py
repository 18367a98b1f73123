"""The rules of the house, checked: import directions, sizes, docstrings, names."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "nouscoder_jax", ROOT / "kernels/nouscoder_kernels")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
SOURCES = [path for path in MODULES if path.name != "__init__.py"]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "helpers", "helper", "misc", "lib"}
HOST_PACKAGES = ("config", "data", "rollout", "verifier", "experience", "metrics")
HOST_MODULES = ("arguments", "types", "cli", "manifest", "python_tree")
NOT_HOST = ("rollout/embedded.py",)
"""Files of host packages that may import jax."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_imports_obey_the_contracts():
    lint = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_at_most_600_lines(path):
    assert num_lines(path) <= 600


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_has_at_most_60_lines(path):
    assert num_lines(path) <= 60


def num_entrances(tree):
    """How many things of a module are public and called: functions, and methods that are no properties."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        methods = [node for node in one.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        found += [node for node in methods if "property" not in map(ast.unparse, node.decorator_list)]
    return sum(not node.name.startswith("_") for node in found)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_flows_in_and_out(path):
    """Types, constants and a single function need no such sentence: it stands beside them, or nothing flows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    doc = ast.get_docstring(tree) or ""
    says = re.search(r"\bIn: .*\bOut: ", doc, re.DOTALL)
    assert doc, f"{name_of(path)} has no docstring"
    assert says or num_entrances(tree) <= 1, f"{name_of(path)}: docstring without In: and Out:"
    assert "In: nothing" not in doc, f"{name_of(path)}: leave out a form that says nothing"


def test_no_module_is_named_after_nothing():
    assert [name_of(path) for path in MODULES if path.stem in FORBIDDEN_NAMES] == []


def test_a_folder_has_three_modules_or_is_a_file():
    folders = [folder for folder in (ROOT / "nouscoder_jax").iterdir() if (folder / "__init__.py").exists()]
    sizes = {folder.name: len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) for folder in folders}
    assert {name: size for name, size in sizes.items() if size < 3} == {}


def test_the_package_inits_hold_no_code():
    for path in (path for path in MODULES if path.name == "__init__.py"):
        kinds = {type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        allowed = {ast.Expr, ast.ImportFrom, ast.Assign}
        if path == ROOT / "nouscoder_jax/__init__.py":
            # its __getattr__ fetches load_model on demand: a plain import would bring jax into every host module
            allowed |= {ast.If, ast.FunctionDef}
        assert kinds <= allowed, f"{name_of(path)} holds code"


def test_the_host_world_does_not_import_jax_at_run_time():
    names = [f"nouscoder_jax.{name}" for name in HOST_MODULES]
    host = [path for path in SOURCES if path.relative_to(ROOT).parts[1] in HOST_PACKAGES]
    names += [dotted(path) for path in host if not name_of(path).endswith(NOT_HOST)]
    # Grain itself imports jax, so modules that use Grain cannot be asked this way; the import contract covers them.
    with_grain = [dotted(path) for path in SOURCES if "import grain" in path.read_text(encoding="utf-8")]
    names = [name for name in names if name not in with_grain]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    for bad in ('jax', 'flax', 'optax'):\n"
        "        assert bad not in sys.modules, f'{name} imports {bad}'\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_config_loads_without_jax(path):
    code = (
        "import sys; from pathlib import Path; from nouscoder_jax.cli import load_config_file; "
        f"load_config_file(Path({str(path)!r})); assert 'jax' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_neither_kernels_nor_configs_nor_scripts_shadow_a_package():
    assert not [folder for folder in ("kernels", "configs", "scripts") if (ROOT / folder / "__init__.py").exists()]
