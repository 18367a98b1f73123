"""What an install brings: the wheel is built, looked into, and installed alone where time allows."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("nouscoder_jax/bench/", "nouscoder_jax/tiny/")
ALONE = ("losses", "mismatch", "logprobs", "experience.advantages")
"""Modules that need jax and numpy, and nothing else."""
LOOP = """
import jax, jax.numpy as jnp
tokens = jnp.arange(24).reshape(4, 6) % 5
ones = jnp.ones((4, 6))
batch = {
    "features": jax.random.normal(jax.random.key(0), (4, 6, 8)),
    "tokens": tokens,
    "old_logprobs": -jnp.log(5.0) * ones,
    "rewards": jnp.asarray([[1.0, 0.0], [1.0, 0.0]]),
    "mask": ones > 0,
}
params, batches = jnp.zeros((8, 5)), [batch] * 3
"""
"""What the loop of README.md takes as given."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.fixture(scope="module")
def metadata(wheel, names):
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as file:
        return HeaderParser().parsestr(file.read(name).decode())


def run(python: Path | str, code: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, env=inherited | environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_measuring_programs_and_the_maker_of_the_tiny_policy_are_not_in_the_wheel(names):
    assert not [name for name in names if name.startswith(LEFT_OUT)]


def test_every_other_module_is_in_the_wheel(names):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nouscoder_jax").rglob("*.py")}
    modules |= {str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels/nouscoder_kernels").rglob("*.py")}
    assert {name for name in modules if not name.startswith(LEFT_OUT)} <= names


def test_type_checkers_are_told_that_the_packages_are_typed(names):
    assert {"nouscoder_jax/py.typed", "nouscoder_kernels/py.typed"} <= names


def test_an_install_without_extras_asks_for_jax_and_numpy_alone(metadata):
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(re.match(r"[\w-]+", line)[0] for line in needed) == ["jax", "numpy"]


def test_every_extra_is_in_the_metadata(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {
        "cuda",
        "data",
        "plan",
        "report",
        "sglang",
        "test",
        "train",
        "wandb",
        "modal",
    }


@pytest.mark.parametrize("name", ALONE)
def test_a_module_of_the_losses_loads_nothing_but_what_jax_and_numpy_load(name):
    code = (
        "import sys, jax, jax.numpy, numpy\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        f"import nouscoder_jax.{name}\n"
        "after = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(*sorted(after - before))\n"
    )
    assert run(sys.executable, code, PYTHONPATH=str(ROOT)).split() == ["nouscoder_jax"]


def without(package: str) -> str:
    """The beginning of a program in an environment that lacks the package."""
    return f"import sys; sys.modules[{package!r}] = None\n"


def test_a_script_without_its_extra_says_in_one_line_which_to_install():
    for package in ("tyro", "jaxtyping"):
        code = f"{without(package)}sys.argv = ['train.py']; import runpy; runpy.run_path('scripts/train.py')"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {package} is not installed") and "nouscoder-jax[train]" in line


def test_load_model_without_its_extra_says_which_to_install():
    code = (
        f"{without('flax')}import nouscoder_jax\ntry:\n    nouscoder_jax.load_model\n"
        "except ImportError as error:\n    print(error)\n"
    )
    told = run(sys.executable, code, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'kernels'}")
    assert told.strip() == "load_model needs flax, which is not installed: pip install 'nouscoder-jax[train]'"


@pytest.mark.slow
def test_the_wheel_alone_in_a_bare_environment_has_the_losses_and_with_optax_runs_the_loop_of_the_readme(
    wheel, tmp_path
):
    venv.create(tmp_path / "bare")
    python = tmp_path / "bare/bin/python"

    def install(what: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        command += ["-c", str(ROOT / "constraints.txt"), what]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    install(str(wheel))
    imports = "".join(f"import nouscoder_jax.{name}\n" for name in ALONE)
    listed = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    installed = set(run(python, imports + listed, JAX_PLATFORMS="cpu").split())
    assert installed == {"nouscoder-jax", "jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy"}
    install("optax")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (loop,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "dapo_loss" in code)
    shown = run(python, f"{LOOP}{loop}\nprint(metrics['ratio_max'].value())", JAX_PLATFORMS="cpu")
    assert float(shown) > 1.0
