"""The ways of judging that `bench.py judge` runs beside each other: ours in its sizes, the baselines, the floor.

In: an image, a number of workers. Out: modes in the order of the table; each makes its contender or says why it cannot.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from nouscoder_jax.bench.judge.baselines import InProcess, docker_run, host_process
from nouscoder_jax.bench.judge.programs import TIME_LIMIT_S, Contender, Judged
from nouscoder_jax.config import UserError, VerifierConfig
from nouscoder_jax.types import ExecutionStatus, Problem
from nouscoder_jax.verifier.checker import mismatch
from nouscoder_jax.verifier.judge import make_sandbox
from nouscoder_jax.verifier.verify import call_of, hardest_first, limits_of

RATIO_TO = "LiveCodeBench-style"
"""The mode that all others are compared with in the same round."""
_BACKENDS: tuple[tuple[str, Literal["docker", "local"], str], ...] = (
    ("docker", "docker", ""),
    ("docker crun", "docker", "crun"),
    ("local", "local", ""),
)
"""Label, backend, OCI runtime (empty: the Docker host's default)."""
SIZES = {"warm": 1_000_000, "reuse=10": 10, "fresh": 1}
"""Rollouts that one sandbox judges."""
_SLOW_PROGRAMS = 2
"""Programs a round for a mode that takes minutes for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way of judging.

    Example:
        Mode(name="docker warm", kind="ours", num_programs=50, lead_in=6, make=lambda: Ours(config))
    """

    name: str
    kind: Literal["ours", "baseline", "floor"]
    num_programs: int
    """Programs it judges in a round."""
    lead_in: int
    """Programs that it judges in each round before the clock starts, so that what it made ahead is used up."""
    make: Callable[[], Contender]
    """Raises UserError where it does not work on this machine."""


class Ours:
    """The judge of this package: its sandboxes and its comparison, with a stopwatch around each test."""

    def __init__(self, config: VerifierConfig) -> None:
        self._config = config
        self._sandbox = make_sandbox(config)

    async def judge(self, problem: Problem, program: str) -> Judged:
        """A rollout in a sandbox. Raises JudgeError at once: a fault that is retried would look like slowness."""
        passed, test_s = 0, []
        limits = limits_of(problem, self._config)
        async with self._sandbox.session(program, fn_name=call_of(problem), limits=limits) as session:
            for _, test in hardest_first(problem.tests):
                started = time.perf_counter()
                execution = await session.run(test.input)
                test_s.append(time.perf_counter() - started)
                exited = execution.status is ExecutionStatus.EXITED
                passed += exited and not mismatch(test.expected, execution.stdout, problem.comparison)
        return Judged(accepted=passed == len(problem.tests), test_s=tuple(test_s))

    async def close(self) -> None:
        """Ends every sandbox."""
        await self._sandbox.close()


def make_modes(*, image: str, num_workers: int, num_programs: int, floor: bool) -> list[Mode]:
    """All modes, in the order of the table. `floor`: fork + program in a bare Python as well."""
    lead_in = 3 * num_workers
    modes = []
    for label, backend, runtime in _BACKENDS:
        for size, reuse in SIZES.items():
            config = _config(backend=backend, image=image, runtime=runtime, num_workers=num_workers, reuse=reuse)
            make = functools.partial(_ours, config)
            modes.append(
                Mode(name=f"{label} {size}", kind="ours", num_programs=num_programs, lead_in=lead_in, make=make)
            )

    def baseline(name: str, make: Callable[[], Contender]) -> Mode:
        return Mode(name=name, kind="baseline", num_programs=num_programs, lead_in=lead_in, make=make)

    modes += [
        baseline(RATIO_TO, lambda: InProcess("livecodebench")),
        baseline("bare in-process", lambda: InProcess("bare")),
        replace(baseline("host process a test", host_process), lead_in=0),
        replace(
            baseline("docker run a test", functools.partial(docker_run, image)),
            lead_in=0,
            num_programs=min(num_programs, _SLOW_PROGRAMS),
        ),
    ]
    if floor:
        modes.append(replace(baseline("floor: fork + program", lambda: InProcess("fork")), kind="floor"))
    return modes


def _config(
    *, backend: Literal["docker", "local"], image: str, runtime: str, num_workers: int, reuse: int
) -> VerifierConfig:
    return VerifierConfig(
        backend=backend, docker_hosts=(), image=image, runtime=runtime, num_workers=num_workers,
        rollouts_per_sandbox=reuse, default_time_limit_s=float(TIME_LIMIT_S), wall_factor=3.0, memory_limit_mib=4096,
        output_limit_mib=8, max_processes=64, max_retries=1, outage_limit_s=30.0,
    )  # fmt: skip


def _ours(config: VerifierConfig) -> Contender:
    if config.runtime:
        _require_runtime(config.runtime)
    return Ours(config)


def _require_runtime(runtime: str) -> None:
    """Raises UserError where the Docker host does not offer the runtime, or uses it anyway."""
    facts = docker_facts()
    if facts is None:
        raise UserError("no Docker host answers")
    if runtime not in facts["runtimes"]:
        raise UserError(f"the Docker host offers no {runtime}, it has {', '.join(facts['runtimes'])}")
    if runtime == facts["default_runtime"]:
        raise UserError(f"{runtime} is the Docker host's default already")


def docker_facts() -> dict[str, str | list[str]] | None:
    """What the Docker host of DOCKER_HOST says about itself; None where none answers."""
    import docker  # the SDK takes 0.2 s to import
    import docker.errors
    import requests.exceptions

    try:
        info = docker.from_env(timeout=10).info()
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError):
        return None
    return {
        "version": info["ServerVersion"],
        "storage": info["Driver"],
        "cgroup": f"v{info.get('CgroupVersion', '?')} {info['CgroupDriver']}",
        "default_runtime": info["DefaultRuntime"],
        "runtimes": sorted(info["Runtimes"]),
    }
