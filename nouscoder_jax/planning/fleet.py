"""The GPUs that a plan is made for: their speeds, their memory, how they hang together.

In: a GPU's name and a number of GPUs. Out: `Fleet`, with the text that the compiler takes and the bandwidth of a
collective over any group of its GPUs. No jax.

Speeds are the makers' own, for one GPU and one direction. H100 SXM and H200: NVIDIA's H100 and H200 datasheets (989.4
TFLOP/s dense bf16, NVLink 900 GB/s both ways). B200: NVIDIA's DGX B200 datasheet, an eighth of it (72 PFLOP/s sparse
fp8, so 2.25 dense bf16; NVLink 14.4 TB/s both ways). Network: 400 Gbit/s a GPU, as DGX H100, H200 and B200 have it
(one ConnectX-7 a GPU). Memory and its bandwidth stand in targets/*.txtpb, as the driver reports them (H200: datasheet).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nouscoder_jax.config import UserError

GPUS_PER_MACHINE = 8

TARGETS = Path(__file__).parent / "targets"

USABLE_MEMORY = 0.94
"""Share of a GPU's memory that a program may take; the rest is CUDA's context, NCCL's buffers and fragments. A run sets
XLA_PYTHON_CLIENT_MEM_FRACTION to it: XLA takes 0.75 by itself."""

LINK_EFFICIENCY = 0.8
"""Share of a link's bandwidth that large collectives reach; an assumption, near what NCCL's own tests print."""


def machines(num_gpus: int) -> int:
    """Machines of so many GPUs, of which the last may have fewer than the others."""
    return -(-num_gpus // GPUS_PER_MACHINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Example:
        Gpu(name="h100", title="NVIDIA H100 80GB HBM3", peak_flops=989.4e12, memory_bytes=84942979072,
            memory_bandwidth=3.35e12, nvlink_bandwidth=450e9, network_bandwidth=50e9)
    """

    name: str
    title: str
    peak_flops: float
    """Dense bf16 FLOP/s."""
    memory_bytes: int
    memory_bandwidth: float
    """Bytes/s."""
    nvlink_bandwidth: float
    """Bytes/s to the GPUs of the same machine, one direction."""
    network_bandwidth: float
    """Bytes/s to other machines, one direction, for each GPU."""

    @property
    def usable_bytes(self) -> int:
        """Memory that a program may take."""
        return int(self.memory_bytes * USABLE_MEMORY)


_SPEEDS = {"b200": (2250e12, 900e9, 50e9), "h100": (989.4e12, 450e9, 50e9), "h200": (989.4e12, 450e9, 50e9)}
"""Peak FLOP/s, NVLink and network bytes/s; sources above."""


def target_text(name: str) -> str:
    """The description of a GPU that XLA's compiler takes. Raises UserError for a GPU that has none."""
    if name not in _SPEEDS:
        raise UserError(f"--gpu got {name!r}; it takes one of {', '.join(sorted(_SPEEDS))}")
    return (TARGETS / f"{name}.txtpb").read_text(encoding="utf-8")


def find_gpu(name: str) -> Gpu:
    """The GPU of this name. Raises UserError for an unknown one."""
    text = target_text(name)

    def number(field: str) -> int:
        (found,) = re.findall(rf"^\s*{field}: (\d+)$", text, re.MULTILINE)
        return int(found)

    peak, nvlink, network = _SPEEDS[name]
    return Gpu(
        name=name,
        title=re.findall(r'^\s*name: "(.*)"$', text, re.MULTILINE)[0],
        peak_flops=peak,
        memory_bytes=number("device_memory_size"),
        memory_bandwidth=float(number("memory_bandwidth")),
        nvlink_bandwidth=nvlink,
        network_bandwidth=network,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """GPUs of one kind, eight a machine, numbered machine by machine.

    Example:
        Fleet(gpu=find_gpu("b200"), num_gpus=48)
    """

    gpu: Gpu
    num_gpus: int

    def __post_init__(self) -> None:
        below = self.num_gpus // GPUS_PER_MACHINE * GPUS_PER_MACHINE
        if self.num_gpus < 1:
            raise UserError(f"--gpus got {self.num_gpus}; use 1 or more")
        if self.num_gpus > GPUS_PER_MACHINE and self.num_gpus != below:
            raise UserError(
                f"--gpus got {self.num_gpus}, which is no whole number of machines of {GPUS_PER_MACHINE}; "
                f"use {below} or {below + GPUS_PER_MACHINE}"
            )

    @property
    def num_machines(self) -> int:
        """Machines, of which one may have fewer than eight GPUs."""
        return machines(self.num_gpus)

    @property
    def topology(self) -> str:
        """The fleet as XLA takes it: slices x machines x GPUs a machine, `1x6x8` for 48 GPUs."""
        return f"1x{self.num_machines}x{self.num_gpus // self.num_machines}"

    def bus_bandwidth(self, group: Sequence[int]) -> float:
        """Bytes/s that each GPU of a ring over `group` can pass on: NVLink inside a machine; between machines the
        network cards of the group's GPUs there, which the rings share, where that is less."""
        per_machine = Counter(device // GPUS_PER_MACHINE for device in group)
        slowest = self.gpu.nvlink_bandwidth
        if len(per_machine) > 1:
            slowest = min(slowest, min(per_machine.values()) * self.gpu.network_bandwidth)
        return slowest * LINK_EFFICIENCY
