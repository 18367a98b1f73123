"""What an install brings: the wheel is built and looked into."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("nouscoder_jax/bench/", "nouscoder_jax/tiny/")


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> set[str]:
    """The files of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        return set(wheel.namelist())


def test_the_measuring_programs_and_the_maker_of_the_tiny_policy_are_not_in_the_wheel(names):
    assert not [name for name in names if name.startswith(LEFT_OUT)]


def test_every_other_module_is_in_the_wheel(names):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nouscoder_jax").rglob("*.py")}
    modules |= {str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels/nouscoder_kernels").rglob("*.py")}
    assert {name for name in modules if not name.startswith(LEFT_OUT)} <= names
