"""The code that goes into a sandbox, as bytes for a bare `python` there.

In: the sources in nouscoder_jax/verifier/inside/. Out: a bundle to send to a runner connection and the command that
unpacks it. Nothing needs to be installed in an image but Python.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import marshal
from pathlib import Path

FOLDER = Path(__file__).with_name("inside")
"""What is sent, all of it."""
_PACKAGE = f"{__package__}.inside"

BOOTSTRAP = """
import marshal, os, select, sys
size, data = int(sys.argv[1]), b""
while len(data) < size:
    if not select.select([0], [], [], 3600)[0]: os._exit(1)
    chunk = os.read(0, size - len(data))
    if not chunk: os._exit(1)
    data += chunk
for name, code in marshal.loads(data):
    module = sys.modules[name] = type(sys)(name)
    module.__path__ = []
    if name.rpartition(".")[0]: setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    exec(code, module.__dict__)
del data
sys.modules["nouscoder_jax.verifier.inside.runner"].main()
"""
"""Reads as many bytes as its argument says, makes modules of them, starts the runner. Leaves after an idle hour: an
Docker host that was killed may have forgotten that it made this."""


@functools.cache
def bundle(*, compiled: bool) -> bytes:
    """The modules, each after those that it imports. compiled: for an interpreter of this version, starts faster."""
    parts: list[tuple[str, object]] = [(name, "") for name in ("nouscoder_jax", "nouscoder_jax.verifier", _PACKAGE)]
    for name, text in _sources().items():
        code = compile(text, f"<sandbox {name}>", "exec", dont_inherit=True) if compiled else text
        parts.append((f"{_PACKAGE}.{name}", code))
    return marshal.dumps(parts) if compiled else marshal.dumps(parts, 2)


def _sources() -> dict[str, str]:
    """Name and text of each module, after those that it imports. Raises CycleError where they import each other."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
    del texts["__init__"]
    imported = {name: _imported(text) for name, text in texts.items()}
    return {name: texts[name] for name in graphlib.TopologicalSorter(imported).static_order()}


def _imported(text: str) -> list[str]:
    """The modules of the folder that this text imports at its top level."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(_PACKAGE):
            module = node.module.removeprefix(_PACKAGE).lstrip(".")
            found += [module] if module else [alias.name for alias in node.names]
    return found


def command(python: str, size: int) -> list[str]:
    """Starts the bundle of `size` bytes. Without `site`, whose .pth files may import anything and take 50 ms."""
    return [python, "-S", "-B", "-c", BOOTSTRAP, str(size)]


ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
"""All that the runner's process sees. A fixed hash seed: a program prints its sets in the same order each time."""
