"""Compilations of one plan: the config's own size, larger and smaller ones, and what to say where it does not fit.

In: a config, an architecture, a fleet, a mesh. Out: `Program`s by size, `Fit`s, or a UserError that names what fits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxlib

from nouscoder_jax.config import MeshConfig, TrainConfig, UserError
from nouscoder_jax.model.architecture import Architecture
from nouscoder_jax.planning import meshes
from nouscoder_jax.planning.compile import (
    Program,
    compile_update,
    gpu_compiler_missing,
    gpu_devices,
    host_devices,
    with_size,
)
from nouscoder_jax.planning.fit import Fit, largest_that_fits
from nouscoder_jax.planning.fleet import GPUS_PER_MACHINE, Fleet

ROW_STEP = 1024
"""Lengths of rows that are looked at are multiples of this."""


class Compilations:
    """Compiles the update of one config for one fleet at several sizes, each once."""

    def __init__(
        self,
        config: TrainConfig,
        architecture: Architecture,
        fleet: Fleet,
        mesh: MeshConfig,
        *,
        compiler: str,
        num_micro_batches: int,
        deadline: float,
        tell: Callable[[str], None],
    ):
        missing = gpu_compiler_missing()
        if compiler == "gpu" and missing:
            raise UserError(f"--compiler gpu: {missing}; install it, or take --compiler host for estimates")
        self.estimates = compiler == "host" or bool(missing)
        self.notes: list[str] = []
        self._architecture, self._fleet, self.mesh = architecture, fleet, mesh
        self._num_micro_batches, self._deadline, self._tell = num_micro_batches, deadline, tell
        if self.estimates:
            devices = host_devices(fleet.num_gpus)
            self.compiler_text = f"XLA for this machine's CPU (jaxlib {jaxlib.__version__}): ESTIMATES"
            self.notes.append(
                "these are ESTIMATES: compiled for fake CPU devices"
                + (f", because {missing}" if missing else " (--compiler host)")
                + "; a GPU's temporaries and collectives differ"
            )
            if config.model.attention != "reference":
                config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="reference"))
                self.notes.append("attention is the reference's: kernels for GPUs do not compile for the host")
        else:
            devices = gpu_devices(fleet)
            self.compiler_text = f"XLA for {fleet.gpu.title} (jax {jax.__version__}, jaxlib {jaxlib.__version__})"
        self._config, self._devices = config, devices
        self._programs: dict[tuple[int, int], Program] = {}

    @property
    def caution(self) -> str:
        """What to know of the figures, to be put behind one; empty where they are the GPU compiler's."""
        if not self.estimates:
            return ""
        return " (ESTIMATES of this machine's own compiler, which takes more: install the extra `plan`, or `make plan`)"

    def config_of(self, row_tokens: int, rows_per_gpu: int) -> TrainConfig:
        """The config at another size, on this plan's mesh."""
        return with_size(self._config, self.mesh, row_tokens=row_tokens, rows_per_gpu=rows_per_gpu)

    def measure(self, row_tokens: int, rows_per_gpu: int) -> Program:
        """The update at this size, compiled once."""
        key = (row_tokens, rows_per_gpu)
        if key not in self._programs:
            rows = "1 row" if rows_per_gpu == 1 else f"{rows_per_gpu} rows"
            self._tell(f"compiling for {self._fleet.num_gpus} GPUs, {rows} of {row_tokens:,} tokens a GPU")
            self._programs[key] = compile_update(
                self.config_of(row_tokens, rows_per_gpu),
                self._architecture,
                devices=self._devices,
                num_micro_batches=self._num_micro_batches,
            )
        return self._programs[key]

    def longest_row(self, program: Program, *, cap: int) -> Fit:
        """The longest row that fits with as many rows a GPU as `program` has."""

        def peak_of(row_tokens: int) -> int | None:
            return self.measure(row_tokens, program.rows_per_gpu).peak_bytes if self._has_time() else None

        known = dict([(program.row_tokens, program.peak_bytes), self._second_point(program)])
        return largest_that_fits(
            peak_of, known, limit_bytes=self._fleet.gpu.usable_bytes, step=min(ROW_STEP, program.row_tokens), cap=cap
        )

    def most_rows(self, program: Program, *, cap: int) -> Fit:
        """The most rows a GPU that fit with rows as long as `program`'s."""

        # More tokens cost the same in the same row and in another.
        other_tokens, other_peak = self._second_point(program)
        per_token = (program.peak_bytes - other_peak) / (program.row_tokens - other_tokens)
        none = round(program.peak_bytes - per_token * program.row_tokens)
        return self._most_rows(program, {0: none, program.rows_per_gpu: program.peak_bytes}, cap=cap)

    def fewer_rows(self, program: Program) -> Fit:
        """The most rows a GPU that fit where those of `program`, more than one, do not."""
        one = self.measure(program.row_tokens, 1)
        known = {1: one.peak_bytes, program.rows_per_gpu: program.peak_bytes}
        return self._most_rows(program, known, cap=program.rows_per_gpu - 1)

    def _most_rows(self, program: Program, known: dict[int, int], *, cap: int) -> Fit:
        def peak_of(rows: int) -> int | None:
            return self.measure(program.row_tokens, rows).peak_bytes if self._has_time() else None

        return largest_that_fits(peak_of, known, limit_bytes=self._fleet.gpu.usable_bytes, step=1, cap=cap)

    def _second_point(self, program: Program) -> tuple[int, int]:
        """(row_tokens, peak bytes) of a second point on the line over lengths: another compiled row, else the peak of
        empty rows, as if a token took its layers' inputs and a quarter more, a first guess that the compilations which
        follow put right."""
        others = [p for p in self._programs.values() if p.rows_per_gpu == program.rows_per_gpu]
        others = [p for p in others if p.row_tokens != program.row_tokens]
        if others:
            return max((p.row_tokens, p.peak_bytes) for p in others)
        a = self._architecture
        per_token = 1.25 * a.num_layers * a.hidden_size * jnp.dtype(self._config.model.compute_dtype).itemsize
        return 0, round(program.peak_bytes - per_token * program.row_tokens * program.rows_per_gpu)

    def _has_time(self) -> bool:
        slowest = max((program.seconds for program in self._programs.values()), default=0.0)
        return time.monotonic() + slowest < self._deadline


def check_state_fits(a: Architecture, mesh: MeshConfig, fleet: Fleet) -> None:
    """Raises UserError where weights, moments and gradients alone do not fit a GPU, before anything is compiled."""
    held = meshes.state_bytes(a, mesh)
    if held > fleet.gpu.usable_bytes:
        raise UserError(
            f"weights, moments and gradients take {held / 1e9:.1f} GB of each GPU on mesh data {mesh.data} x fsdp "
            f"{mesh.fsdp} x tensor {mesh.tensor}; {fleet.gpu.title} has {fleet.gpu.usable_bytes / 1e9:.1f} GB to use; "
            f"what would fit: {_meshes_that_fit(a, mesh, fleet, measured=mesh, peak_bytes=held)}"
        )


def check_it_fits(compilations: Compilations, program: Program) -> None:
    """Raises UserError where the compiled update does not fit a GPU, with what would: shorter rows, meshes, GPUs."""
    fleet, mesh = compilations._fleet, compilations.mesh
    if program.peak_bytes <= fleet.gpu.usable_bytes:
        return
    a = compilations._architecture
    longest = compilations.longest_row(program, cap=program.row_tokens)
    ways = []
    if program.rows_per_gpu > 1 and (fewer := compilations.fewer_rows(program)).size:
        rows = fewer.size * mesh.num_row_shards
        ways.append(f"--experience.rows-per-micro-batch {rows} (about {fewer.peak_bytes / 1e9:.0f} GB)")
    if longest.size >= ROW_STEP:
        ways.append(f"rows of {longest.size} tokens (--experience.row-tokens, and shorter completions)")
    ways.append(_meshes_that_fit(a, mesh, fleet, measured=mesh, peak_bytes=program.peak_bytes))
    raise UserError(
        f"the update needs {program.peak_bytes / 1e9:.1f} GB of each GPU at {program.rows_per_gpu} x "
        f"{program.row_tokens} tokens; {fleet.gpu.title} has {fleet.gpu.usable_bytes / 1e9:.1f} GB to use of "
        f"{fleet.gpu.memory_bytes / 1e9:.1f}{compilations.caution}; what would fit: {'; '.join(ways)}"
    )


def _meshes_that_fit(a: Architecture, mesh: MeshConfig, fleet: Fleet, *, measured: MeshConfig, peak_bytes: int) -> str:
    """Meshes of as many GPUs, else of more, whose memory would do by what is known."""
    counts = [2, 4, *(n * GPUS_PER_MACHINE for n in (1, 2, 3, 4, 5, 6, 8, 12, 16))]
    for num_gpus in [fleet.num_gpus, *(n for n in counts if n > fleet.num_gpus)]:
        for other in meshes.find_meshes(a, num_gpus):
            peak = meshes.peak_on(a, other, measured=measured, peak_bytes=peak_bytes)
            if peak <= fleet.gpu.usable_bytes and (num_gpus > fleet.num_gpus or other.fsdp != mesh.fsdp):
                return f"{num_gpus} GPUs with {meshes.shown(other)} (about {peak / 1e9:.0f} GB)"
    return "GPUs with more memory (--gpu): no mesh of up to 128 such GPUs has room for as many rows a GPU"
