"""How fast weights are converted, beside `cp` of the same bytes, and in what memory: `python scripts/bench.py convert`.

In: options. Out: a table, the targets as met or not met, a JSON file where asked for.

A Hugging Face directory of random bytes in the shape of a Qwen3 is made. Then `cp -r` and `scripts/convert.py from-hf`
take turns over rounds; the directory is hashed and deleted, so that no more than two copies lie on the disk; `cp -r` of
the converted folder and `to-hf` take turns; what comes back is hashed and compared. Each turn is a process of its own,
start and imports included, and ends when its bytes are on the disk (`cp` is followed by `sync` of the copied files). A
ratio compares within a round. The conversions run under `ulimit -v`, which ends them if they ever map more than that.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.options import add_outputs, check_numbers, check_outputs
from nouscoder_jax.bench.results import Report, Target, median, quotients, spread
from nouscoder_jax.bench.weights.random_folder import folder_on, hash_of, write_random
from nouscoder_jax.config import UserError
from nouscoder_jax.planning.sizes import find_architecture

GOAL_RATIO = 0.7
"""Of cp's GB/s."""
GOAL_GIB = 6.0
"""Of memory, at most."""
FROM_HF, TO_HF = "from-hf", "to-hf"
_SCRIPT = Path(__file__).parents[3] / "scripts" / "convert.py"
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_POLL_S = 0.02


@dataclass(kw_only=True)
class Result:
    """One contender; one figure a round."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Of its processes; writing back dirty pages is the kernel's and not counted."""
    peak_mib: list[float] = field(default_factory=list)
    """Resident at most (VmHWM); cp's is its shell's."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench.py convert`."""
    parser.add_argument("--size", default="1.7B", help="of the Qwen3 whose shape is taken (default: 1.7B, 3.4 GB)")
    parser.add_argument("--folder", default=Path(tempfile.gettempdir()), type=Path, help="on the disk to measure")
    parser.add_argument("--rounds", default=3, type=int, help="times each contender has its turn (default: 3)")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each turn (root)")
    parser.add_argument("--quick", action="store_true", help="1 round, the tiny policy's shape: does it work?")
    add_outputs(parser)


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    _check(options)
    console = machine.console(width_chars=140)
    facts = machine.describe(("jax", "orbax-checkpoint", "tensorstore"))
    tiny = Path(__file__).parents[3] / "configs" / "tiny" / "policy"
    architecture = find_architecture(str(tiny) if options.quick else f"Qwen/Qwen3-{options.size}")
    with folder_on(options.folder) as folder, console.status("convert") as status:
        say: Callable[[str], None] = status.update if console.is_terminal else lambda _: None
        num_bytes = write_random(folder / "hf", architecture, say=say)
        wanted = hash_of(folder / "hf")
        turns = {"rounds": options.rounds, "cold": options.cold, "say": say}
        results = measure(FROM_HF, folder / "hf", folder, **turns)
        shutil.rmtree(folder / "hf")
        results += measure(TO_HF, folder / FROM_HF, folder, **turns)
        same = hash_of(folder / TO_HF) == wanted
    settings = {"size": "tiny" if options.quick else options.size, "bytes": num_bytes, "cold": options.cold}
    facts["load_after"] = round(os.getloadavg()[0], 2)
    found = report(results, facts, num_bytes=num_bytes, same=same)
    found.content["settings"] = settings
    cache = "sources read from the disk" if options.cold else "sources in the page cache as far as it goes"
    found.notes.append(
        f"{num_bytes / 1e9:.2f} GB bf16, shape of Qwen3-{settings['size']}; {cache}, results on the disk"
    )
    found.show(console)
    found.write(options.out)
    return 0


def measure(
    direction: str, source: Path, folder: Path, *, rounds: int, cold: bool, say: Callable[[str], None]
) -> list[Result]:
    """cp and the conversion of `source`, in turn; folder/DIRECTION is left as the last one wrote it."""
    copy, ours = Result(name=f"cp + sync ({direction})"), Result(name=direction)
    target = folder / direction
    for number in range(rounds):
        for result in (copy, ours):
            say(f"round {number + 1} of {rounds}: {result.name}")
            shutil.rmtree(target, ignore_errors=True)
            os.sync()
            if cold:
                _DROP_CACHES.write_text("3")
            _take_turn(result, _copy if result is copy else _convert, direction, source, target)
    return [copy, ours]


def _take_turn(
    result: Result,
    begin: Callable[[str, Path, Path], subprocess.Popen[bytes]],
    direction: str,
    source: Path,
    target: Path,
) -> None:
    start, peak_kib = time.perf_counter(), 0
    process = begin(direction, source, target)
    status, usage = None, None
    while usage is None:
        # Not ru_maxrss: that counts what the process was before it became another program, a copy of this one.
        with suppress(OSError):
            found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak_kib = max(peak_kib, int(found[1]) if found else 0)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        usage = used if ended else None
        time.sleep(_POLL_S if usage is None else 0.0)
    result.wall_s.append(time.perf_counter() - start)
    if status:
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        raise UserError(f"{result.name} failed: {said or status}")
    if process.stderr:
        process.stderr.close()
    result.cpu_s.append(usage.ru_utime + usage.ru_stime)
    result.peak_mib.append(peak_kib / 1024)


def _copy(direction: str, source: Path, target: Path) -> subprocess.Popen[bytes]:
    command = 'cp -r "$1" "$2" && find "$2" -exec sync {} +'
    return subprocess.Popen(["sh", "-c", command, "sh", source, target], stderr=subprocess.PIPE)


def _convert(direction: str, source: Path, target: Path) -> subprocess.Popen[bytes]:
    command = f'ulimit -v {int(GOAL_GIB * (1 << 20))} && exec "$@"'
    arguments = ["sh", "-c", command, "sh", sys.executable, _SCRIPT, direction, source, "--out", target]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ratios(result: Result, results: list[Result]) -> list[float]:
    """GB/s as a multiple of cp's in the same round."""
    cp = next(one for one in results if one.name == f"cp + sync ({result.name})")
    return quotients(cp.wall_s, result.wall_s)


def report(results: list[Result], facts: dict[str, Any], *, num_bytes: int, same: bool) -> Report:
    """Every round, medians, and the targets."""
    gigabytes = num_bytes / 1e9
    rows, kept, targets = [], [], [Target(what="every file back to the byte", goal=True, got=same)]
    for one in results:
        speeds = [gigabytes / value for value in one.wall_s]
        kept.append(asdict(one) | {"gb_per_s": median(speeds)})
        cells = [spread(speeds), spread([value / gigabytes for value in one.cpu_s]), "", ""]
        if one.name in (FROM_HF, TO_HF):
            ratio, peak = ratios(one, results), max(one.peak_mib) / 1024
            cells[2:] = [spread(one.peak_mib), spread(ratio)]
            targets.append(Target(what=f"{one.name}: GB/s / cp's", goal=GOAL_RATIO, got=median(ratio)))
            targets.append(Target(what=f"{one.name}: peak GiB", goal=GOAL_GIB, got=peak, at_least=False))
        rows.append([one.name, *cells])
    return Report(
        bench="convert", facts=facts, title="conversion",
        heads=["what", "GB/s", "CPU s / GB", "peak MiB", "GB/s / cp's"], rows=rows, targets=targets,
        content={"results": kept}, notes=["Median (lowest..highest) of the rounds."],
    )  # fmt: skip


def _check(options: argparse.Namespace) -> None:
    check_numbers(options, "rounds")
    check_outputs(options)
    if options.cold:
        try:
            with suppress(FileNotFoundError):
                _DROP_CACHES.write_text("3")
        except OSError as error:
            raise UserError(f"--cold: {_DROP_CACHES} ({error.strerror}); only root may, leave it out") from error
    if options.quick:
        options.rounds = 1
