"""How fast weights are converted, beside `cp` of the same bytes, and in what memory: `python scripts/bench.py convert`.

In: options. Out: a table, the targets as met or not met, a JSON file where asked for.

A Hugging Face directory of random bytes in the shape of a Qwen3 is made. `cp -r` and `scripts/convert.py from-hf` take
turns; the directory is hashed and deleted, so that no more than two copies lie on the disk; `cp -r` of the converted
folder and `to-hf` take turns; what comes back is hashed and compared. Each turn is a process of its own, start and
imports included, and ends when its bytes are on the disk (`cp` is followed by `sync`). The conversions run under
`ulimit -v`, which ends them if they ever map more than that.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import machine, rounds
from nouscoder_jax.bench.cpu import tree_cpu_s
from nouscoder_jax.bench.options import add_rounds
from nouscoder_jax.bench.results import Report, Target
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.weights.random_folder import folder_on, hash_of, write_random
from nouscoder_jax.config import UserError
from nouscoder_jax.planning.sizes import find_architecture

GOAL_RATIO = 0.7
"""Of cp's GB/s."""
GOAL_GIB = 6.0
"""Of memory, at most."""
FROM_HF, TO_HF = "from-hf", "to-hf"
_ROOT = Path(__file__).parents[3]
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_POLL_S = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py convert`."""
    parser.add_argument("--size", default="1.7B", help="of the Qwen3 whose shape is taken (default: 1.7B, 3.4 GB)")
    parser.add_argument("--folder", default=Path(tempfile.gettempdir()), type=Path, help="on the disk to measure")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each turn (root)")
    add_rounds(parser, rounds=3, quick="the tiny policy's shape")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    if options.cold and not os.access(_DROP_CACHES, os.W_OK):
        raise UserError(f"--cold needs {_DROP_CACHES}, which only root may write; leave it out")
    facts = machine.describe(("jax", "orbax-checkpoint", "tensorstore"))
    tiny = str(_ROOT / "configs" / "tiny" / "policy")
    architecture = find_architecture(tiny if options.quick else f"Qwen/Qwen3-{options.size}")
    turns = {"num_rounds": 1 if options.quick else options.rounds, "cold": options.cold}
    with folder_on(options.folder) as folder:
        gigabytes = write_random(folder / "hf", architecture) / 1e9
        wanted = hash_of(folder / "hf")
        contenders = measure(FROM_HF, folder / "hf", folder, gigabytes=gigabytes, **turns)
        shutil.rmtree(folder / "hf")
        contenders += measure(TO_HF, folder / FROM_HF, folder, gigabytes=gigabytes, **turns)
        same = hash_of(folder / TO_HF) == wanted
    found = report(contenders, facts, same=same)
    cache = "sources read from the disk" if options.cold else "sources in the page cache as far as it goes"
    found.notes.append(f"{gigabytes:.2f} GB bf16; {cache}, results on the disk")
    found.finish(options)
    return 0


def measure(
    direction: str, source: Path, folder: Path, *, gigabytes: float, num_rounds: int, cold: bool
) -> list[Contender]:  # fmt: skip
    """cp and the conversion of `source`, in turn; folder/DIRECTION is left as the last one wrote it. Raises UserError
    where one fails."""
    target, script = folder / direction, _ROOT / "scripts" / "convert.py"
    copy = ["sh", "-c", 'cp -r "$1" "$2" && find "$2" -exec sync {} +', "sh", str(source), str(target)]
    ours = ["sh", "-c", f'ulimit -v {int(GOAL_GIB * (1 << 20))} && exec "$@"', "sh", sys.executable, str(script)]
    ours += [direction, str(source), "--out", str(target)]

    def before(name: str) -> None:
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        if cold:
            _DROP_CACHES.write_text("3")

    contenders = [
        Contender(name=f"cp + sync ({direction})", turn=lambda: _run(copy), work=gigabytes),
        Contender(name=direction, turn=lambda: _run(ours), work=gigabytes),
    ]
    rounds.take_turns(contenders, rounds=num_rounds, warm_up=0, cpu_s=tree_cpu_s, before=before)
    for one in contenders:
        if one.skipped:
            raise UserError(f"{one.name} failed: {one.skipped}")
    return contenders


def _run(command: list[str]) -> dict[str, float]:
    """Peak resident memory (VmHWM). Not ru_maxrss: that counts what the process was before it became another program, a
    copy of this one."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        peak_kib = 0
        while process.poll() is None:
            with suppress(OSError):
                found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak_kib = max(peak_kib, int(found[1]) if found else 0)
            time.sleep(_POLL_S)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace").strip() or process.returncode)
    return {"peak_mib": peak_kib / 1024}


def report(contenders: list[Contender], facts: dict[str, Any], *, same: bool) -> Report:
    """A row a contender, and the targets."""
    figures = {"GB/s": ("speed", 1.0), "CPU s / GB": ("cpu_s_per_work", 1.0), "peak MiB": ("peak_mib", 1.0)}
    parts = rounds.table(contenders, figures, reference=lambda one: f"cp + sync ({one.name})")
    found = Report(bench="convert", facts=facts, **parts)
    found.targets.append(Target(what="every file back to the byte", goal=1, got=float(same)))
    for name in (FROM_HF, TO_HF):
        one = rounds.find(contenders, name)
        got = rounds.ratio(one, rounds.find(contenders, f"cp + sync ({name})"))
        peak = max(one.values("peak_mib")) / 1024 if one else None
        found.targets.append(Target(what=f"{name}: GB/s / cp's", goal=GOAL_RATIO, got=got))
        found.targets.append(Target(what=f"{name}: peak GiB", goal=GOAL_GIB, got=peak, at_least=False))
    return found
