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
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nouscoder_jax.bench import machine
from nouscoder_jax.bench.judge.table import readable
from nouscoder_jax.bench.weights.random_folder import hash_of, write_random
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every round as JSON")


def run(options: argparse.Namespace) -> int:
    """Measures and reports. Returns 0: a benchmark reports, it does not judge. Raises UserError."""
    _check(options)
    console = machine.console(width_chars=140)
    facts = machine.describe(("jax", "orbax-checkpoint", "tensorstore"))
    tiny = Path(__file__).parents[3] / "configs" / "tiny" / "policy"
    architecture = find_architecture(str(tiny) if options.quick else f"Qwen/Qwen3-{options.size}")
    try:
        folder = Path(tempfile.mkdtemp(prefix="nouscoder-convert-", dir=options.folder))
    except OSError as error:
        raise UserError(f"--folder got {options.folder} ({error.strerror}); give one that you may write to") from error
    try:
        with console.status("convert") as status:
            say: Callable[[str], None] = status.update if console.is_terminal else lambda _: None
            num_bytes = write_random(folder / "hf", architecture, say=say)
            wanted = hash_of(folder / "hf")
            turns = {"rounds": options.rounds, "cold": options.cold, "say": say}
            results = measure(FROM_HF, folder / "hf", folder, **turns)
            shutil.rmtree(folder / "hf")
            results += measure(TO_HF, folder / FROM_HF, folder, **turns)
            same = hash_of(folder / TO_HF) == wanted
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    settings = {"size": "tiny" if options.quick else options.size, "bytes": num_bytes, "cold": options.cold}
    content = {"bench": "convert", **facts, "settings": settings, "load_after": round(os.getloadavg()[0], 2)}
    content |= to_dict(results, num_bytes=num_bytes, same=same)
    _report(results, content, console)
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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
    return [theirs / mine for mine, theirs in zip(result.wall_s, cp.wall_s, strict=True)]


def to_dict(results: list[Result], *, num_bytes: int, same: bool) -> dict[str, Any]:
    """Every round, medians, and the targets."""
    found = [asdict(one) | {"gb_per_s": num_bytes / 1e9 / statistics.median(one.wall_s)} for one in results]
    targets = [{"what": "every file back to the byte", "goal": True, "got": same, "met": same}]
    for one in results:
        if one.name in (FROM_HF, TO_HF):
            got, peak = statistics.median(ratios(one, results)), max(one.peak_mib) / 1024
            targets.append({"what": f"{one.name}: GB/s / cp's, at least", "goal": GOAL_RATIO, "got": got})
            targets[-1]["met"] = got >= GOAL_RATIO
            targets.append({"what": f"{one.name}: peak GiB, at most", "goal": GOAL_GIB, "got": peak})
            targets[-1]["met"] = peak <= GOAL_GIB
    return {"results": found, "targets": targets}


def _report(results: list[Result], content: dict[str, Any], console: Console) -> None:
    gigabytes = content["settings"]["bytes"] / 1e9
    table = Table(title="conversion", title_justify="left")
    table.add_column("what", no_wrap=True)
    for head in ("GB/s", "CPU s / GB", "peak MiB", "GB/s / cp's"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in results:
        ours = one.name in (FROM_HF, TO_HF)
        columns = [[gigabytes / value for value in one.wall_s], [value / gigabytes for value in one.cpu_s]]
        columns += [one.peak_mib if ours else [], ratios(one, results) if ours else []]
        table.add_row(one.name, *(_spread(values) if values else "" for values in columns))
    console.print(table)
    for target in content["targets"]:
        got = target["got"] if isinstance(target["got"], bool) else readable(target["got"])
        told = "met" if target["met"] else "NOT MET"
        console.print(f"target: {target['what']} {target['goal']}: {got} {told}", markup=False)
    cache = (
        "sources read from the disk" if content["settings"]["cold"] else "sources in the page cache as far as it goes"
    )
    console.print(
        f"{gigabytes:.2f} GB bf16, shape of Qwen3-{content['settings']['size']}; {len(results[0].wall_s)} rounds; "
        f"median (lowest..highest); {cache}, results on the disk",
        markup=False,
    )
    facts = [str(content[name]) for name in ("date", "commit", "hardware", "versions", "load_before", "load_after")]
    console.print(", ".join(facts), markup=False)


def _spread(values: list[float]) -> str:
    return f"{readable(statistics.median(values))} ({readable(min(values))}..{readable(max(values))})"


def _check(options: argparse.Namespace) -> None:
    if options.rounds < 1:
        raise UserError(f"--rounds is {options.rounds}; use 1 or more")
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"--out got {options.out}; its folder does not exist, make it first")
    if options.cold:
        try:
            with suppress(FileNotFoundError):
                _DROP_CACHES.write_text("3")
        except OSError as error:
            raise UserError(f"--cold: {_DROP_CACHES} ({error.strerror}); only root may, leave it out") from error
    if options.quick:
        options.rounds = 1
