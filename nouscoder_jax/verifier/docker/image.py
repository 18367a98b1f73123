"""A Docker image with a Python, a shell and nothing else, made of this machine's own files: nothing is pulled.

In: an Interpreter. Out: a tar that `docker import` takes, and its label. Users may name any image with a python3 (3.11
or newer) instead, for example one with numpy.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

from nouscoder_jax.verifier.interpreter import Interpreter

BYTECODE_LABEL = "nouscoder.bytecode"
"""Image label: the byte code that its Python runs. Where it is ours, the runner is sent compiled."""
RECIPE_LABEL = "nouscoder.recipe"
"""Image label: what an image of ours was made of. One that was made otherwise is made again."""
_RECIPE = "2"
BYTECODE = importlib.util.MAGIC_NUMBER.hex()
_LEFT_OUT = {
    *("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"),
    *("pydoc_data", "venv"),
}
_CONFIG = re.compile(r"^config-\d")
_LIBRARY = re.compile(r"(?:=> )?(/[^ \n]+) \(0x")
_SHELL = "/bin/sh"  # os.popen, subprocess with shell=True
_FOLDERS = ("dev", "etc", "proc", "sys", "tmp")


def root_tar(python: Interpreter) -> bytes:
    """A tar of a root folder: the interpreter, its standard library, a shell, the shared libraries that they need."""
    major_minor = "python" + ".".join(python.version.split(".")[:2])
    library = Path(python.prefix, "lib", major_minor)
    files = [
        path for path in sorted(library.rglob("*")) if path.is_file() and not _is_left_out(path.relative_to(library))
    ]
    programs = [python.path] + ([_SHELL] if os.path.exists(_SHELL) else [])
    binaries = programs + [str(path) for path in files if path.suffix == ".so"]
    sources = dict.fromkeys([*programs, *map(str, files), *_shared_libraries(binaries)])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in _FOLDERS:
            _add_folder(tar, folder)
        for source in sources:
            info = tar.gettarinfo(os.path.realpath(source), arcname=source.lstrip("/"))
            info.uid = info.gid = 0
            info.mode = 0o755 if info.mode & 0o100 else 0o644
            info.type, info.linkname = tarfile.REGTYPE, ""
            info.size = os.path.getsize(source)
            with open(source, "rb") as file:
                tar.addfile(info, file)
        if python.path != "/usr/bin/python3":
            link = tarfile.TarInfo("usr/bin/python3")
            link.type, link.linkname = tarfile.SYMTYPE, python.path
            tar.addfile(link)
    return buffer.getvalue()


def labels(python: Interpreter) -> list[str]:
    """The lines of a Dockerfile that say what an image made of this Python is."""
    return [
        f"LABEL {BYTECODE_LABEL}={BYTECODE if python.same_bytecode else ''}",
        f"LABEL {RECIPE_LABEL}={_recipe(python)}",
    ]


def is_outdated(found: dict[str, str], python: Interpreter) -> bool:
    """Whether an image with these labels is one of ours that would be made otherwise now."""
    return BYTECODE_LABEL in found and found.get(RECIPE_LABEL) != _recipe(python)


def _recipe(python: Interpreter) -> str:
    return f"{_RECIPE}:{python.version}:{python.path}"


def _is_left_out(path: Path) -> bool:
    return any(part in _LEFT_OUT or _CONFIG.match(part) for part in path.parts[:-1])


def _shared_libraries(binaries: list[str]) -> list[str]:
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    return sorted(set(_LIBRARY.findall(done.stdout)))


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    tar.addfile(info)
