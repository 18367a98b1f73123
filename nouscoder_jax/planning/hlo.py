"""Every collective of a compiled program, read from its HLO text.

In: the text that `compiled.as_text()` gives. Out: `Collective`s with kind, bytes, group and how often they run. The
program is walked from its entry: what stands in a loop's body counts as often as the loop turns, and an asynchronous
start and done are one. A loop whose length is only known at run time (the one over micro-batches) counts as one turn,
and what stands in it is marked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "collective-broadcast")

_BITS = {"pred": 8, "bf16": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One instruction that moves data between devices.

    Example:
        Collective(kind="all-gather", dtype="bf16", bytes=178257920, largest_bytes=178257920, group=(0, 1, 2, 3),
                   count=40, in_open_loop=True)
    """

    kind: str
    dtype: str
    """Of its largest array."""
    bytes: int
    """Of the whole arrays, on one device, once: what a gather yields, a reduce-scatter takes, an all-reduce sums."""
    largest_bytes: int
    """Of its largest array; several may travel together."""
    group: tuple[int, ...]
    """Devices of the first group that take part together."""
    count: int
    """Times it runs, with one turn of each loop of unknown length."""
    in_open_loop: bool
    """Whether a loop of unknown length repeats it."""

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends in one run, on a ring of the group."""
        share = (len(self.group) - 1) / len(self.group)
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes) if len(self.group) > 1 else 0.0
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def find_collectives(text: str) -> list[Collective]:
    """Every collective that the program runs, in the order of a walk from the entry.

    Raises:
        ValueError: the text is no HLO module.
    """
    computations, entry = _computations(text)
    devices = re.search(r"num_partitions=(\d+)", text[:20000]) or re.search(r"replica_count=(\d+)", text[:20000])
    num_devices = int(devices[1]) if devices else 1
    found: list[Collective] = []

    def walk(name: str, count: int, open_loop: bool) -> None:
        for opcode, shape, rest in computations.get(name, []):
            kind = opcode.removesuffix("-start")
            if kind in KINDS:
                found.append(_collective(kind, opcode, shape, rest, num_devices, count, open_loop))
            elif opcode == "while":
                trips = _TRIPS.search(rest)
                for _, called in _CALLED.findall(rest):
                    walk(called, count * (int(trips[1]) if trips else 1), open_loop or trips is None)
            elif not opcode.endswith(("-done", "-update")):
                for called in [name for _, name in _CALLED.findall(rest)] + _branches(rest):
                    walk(called, count, open_loop)

    walk(entry, 1, False)
    return found


def by_kind(collectives: Iterable[Collective]) -> dict[str, dict[str, object]]:
    """What the collectives of each kind add up to: count and bytes of an update with one micro-batch, how much of both
    every further micro-batch adds, the largest array, its dtype, and the sizes of groups."""
    table: dict[str, dict[str, object]] = {}
    collectives = list(collectives)
    for kind in KINDS:
        ours = [one for one in collectives if one.kind == kind]
        if not ours:
            continue
        looped = [one for one in ours if one.in_open_loop]
        largest = max(ours, key=lambda one: one.largest_bytes)
        table[kind] = {
            "count": sum(one.count for one in ours),
            "bytes": sum(one.count * one.bytes for one in ours),
            "count_per_micro_batch": sum(one.count for one in looped),
            "bytes_per_micro_batch": sum(one.count * one.bytes for one in looped),
            "largest_bytes": largest.largest_bytes,
            "largest_dtype": largest.dtype,
            "group_sizes": sorted({len(one.group) for one in ours}),
        }
    return table


def largest_all_reduce(collectives: Iterable[Collective]) -> Collective | None:
    """The all-reduce with the largest single array; None where there is none."""
    return max(
        (one for one in collectives if one.kind == "all-reduce"), key=lambda one: one.largest_bytes, default=None
    )


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """Instructions of every computation as (opcode, shape, what follows), and the entry's name."""
    computations: dict[str, list[tuple[str, str, str]]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _instruction(line.partition(" = ")[2])
            if instruction is not None:
                current.append(instruction)
    if not entry:
        raise ValueError("no ENTRY computation; expected the text of a compiled HLO module")
    return computations, entry


def _instruction(text: str) -> tuple[str, str, str] | None:
    """(opcode, shape, operands and attributes) of what follows the equals sign."""
    end = text.find(" ")
    if text.startswith("("):
        depth = 0
        for end, letter in enumerate(text):  # noqa: B007 (where the shape's parenthesis closes)
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                break
        end += 1
    opcode, parenthesis, rest = text[end:].strip().partition("(")
    return (opcode, text[:end], rest) if parenthesis else None


def _collective(
    kind: str, opcode: str, shape: str, rest: str, num_devices: int, count: int, open_loop: bool
) -> Collective:
    group = _first_group(rest, num_devices)
    arrays = _whole_arrays(kind, opcode, shape, len(group))
    largest = max(arrays, key=lambda array: array[1])
    return Collective(
        kind=kind,
        dtype=largest[0],
        bytes=sum(size for _, size in arrays),
        largest_bytes=largest[1],
        group=group,
        count=count,
        in_open_loop=open_loop,
    )


def _whole_arrays(kind: str, opcode: str, shape: str, group_size: int) -> list[tuple[str, int]]:
    """(dtype, bytes) of each whole array. A start's shape is (operands, results), but for all-reduce: results."""
    arrays = [(match[1], _num_bytes(match)) for match in _ARRAY.finditer(shape)]
    if kind == "collective-permute" and opcode.endswith("-start"):
        return arrays[1:2]
    if opcode.endswith("-start") and kind != "all-reduce":
        half = len(arrays) // 2
        return arrays[:half] if kind == "reduce-scatter" else arrays[half : 2 * half]
    if kind == "reduce-scatter":
        return [(dtype, size * group_size) for dtype, size in arrays]
    return arrays


def _num_bytes(array: re.Match[str]) -> int:
    bits = _BITS.get(array[1]) or int(array[2])
    return math.prod(int(size) for size in array[3].split(",") if size) * bits // 8


def _branches(rest: str) -> list[str]:
    found = _BRANCHES.search(rest)
    return [name.strip().lstrip("%") for name in found[1].split(",")] if found else []


def _first_group(rest: str, num_devices: int) -> tuple[int, ...]:
    """The first replica group, in any of the forms XLA writes; every device where it writes none."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return (int(pairs[1]), int(pairs[2]))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return tuple(int(device) for device in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return tuple(_iota(iota[2]).reshape(_numbers(iota[1]))[0].tolist())
    mesh = re.search(r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}", rest)
    if mesh is None:
        return tuple(range(num_devices))
    axes = dict(re.findall(r"'?([\w]+)'?=(\d+)", mesh[1]))
    sizes = [int(size) for size in axes.values()]
    devices = _iota(mesh[2]) if mesh[2] else np.arange(math.prod(sizes))
    taking_part = re.findall(r"[\w]+", mesh[3])
    index = tuple(slice(None) if axis in taking_part else 0 for axis in axes)
    return tuple(devices.reshape(sizes)[index].reshape(-1).tolist())


def _iota(text: str) -> np.ndarray:
    """Device numbers of `[3,16]T(1,0)`: 0, 1, ... in that shape, transposed, flat."""
    shape, _, order = text.partition("T")
    devices = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return (devices.transpose(_numbers(order)) if order else devices).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
