"""The code that goes into a sandbox, as bytes for a bare `python` there.

In: the sources of this package's modules that run inside. Out: a bundle to send down the line and the command that
unpacks it. Nothing needs to be installed in an image but Python.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from pathlib import Path

_PACKAGE = "nouscoder_jax.verifier.inside"
_INSIDE = ("protocol", "seccomp", "landlock", "namespaces", "candidate", "usage", "watch", "runner")

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
module.main()
"""
"""Reads as many bytes as its argument says, makes modules of them, starts the last one. Leaves after an idle hour: an
engine that was killed may have forgotten that it made this."""


@functools.cache
def bundle(*, compiled: bool) -> bytes:
    """The modules in the order of their imports. compiled: for an interpreter of this very version, starts faster."""
    parts: list[tuple[str, object]] = [(name, "") for name in ("nouscoder_jax", "nouscoder_jax.verifier", _PACKAGE)]
    for name in _INSIDE:
        spec = importlib.util.find_spec(f"{_PACKAGE}.{name}")
        assert spec is not None and spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        code = compile(text, f"<sandbox {name}>", "exec", dont_inherit=True) if compiled else text
        parts.append((f"{_PACKAGE}.{name}", code))
    return marshal.dumps(parts) if compiled else marshal.dumps(parts, 2)


def command(python: str, size: int) -> list[str]:
    """Starts the bundle of `size` bytes. Without `site`, whose .pth files may import anything and take 50 ms."""
    return [python, "-S", "-B", "-c", BOOTSTRAP, str(size)]


ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
"""All that the runner's process sees. A fixed hash seed: a program prints its sets in the same order each time."""
