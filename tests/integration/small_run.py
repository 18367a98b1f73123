"""A run of three small steps, for tests of whole commands: arguments, and environments in which it takes seconds."""

import os
from pathlib import Path

HERE = Path(__file__).parent
QUICK_START = HERE.parent / "quick_start"
SIZES = [
    # An update computes 512 tokens instead of 18,432; an evaluation has 8 problems instead of 64.
    "--data.max-prompt-tokens=128",
    "--experience.row-tokens=256",
    "--experience.rows-per-micro-batch=2",
    f"--data.held-out={HERE / 'held_out_8.jsonl'}",
]
ARGUMENTS = [
    *SIZES,
    "--num-steps=3",
    "--rollout.groups-per-step=2",
    "--rollout.group-size=4",
    "--rollout.num-slots=16",
    "--rollout.max-completion-tokens=64",
    "--evaluation.samples-per-problem=1",
    "--evaluation.max-completion-tokens=64",
    "--verifier.backend=local",
]


def environment(cache: Path | None = None, *, devices: int | None = None, optimization: int = 1) -> dict[str, str]:
    """On the CPU, compiled quickly, without torch; else a small run spends most of its time compiling and importing.

    Args:
        cache: Programs compiled by one session are here for the next; by default where all tests have theirs. A session
            that is killed needs one of its own: jax writes an entry in place, and would leave half of it to others.
        devices: Of a process; by default what XLA finds, which is one.
        optimization: XLA's level. 1 where many sessions run what one has compiled; 0, which compiles in half the time
            and takes half as long again to run, where few do.
    """
    flags = _xla_flags(without=("--xla_force_host_platform_device_count",))
    flags += [f"--xla_backend_optimization_level={optimization}", "--xla_llvm_disable_expensive_passes=true"]
    if devices:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    own = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "JAX_SHARE_BINARY_BETWEEN_HOSTS": "1",  # of several processes one compiles
        "PYTHONPATH": os.pathsep.join(filter(None, (str(QUICK_START), os.environ.get("PYTHONPATH")))),
        "XLA_FLAGS": " ".join(flags),
    }
    return own | ({"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {})


def user_environment() -> dict[str, str]:
    """On the CPU, as a user's session is: without the flags that conftest.py sets."""
    ours = ("--xla_force_host_platform_device_count", "--xla_cpu_use_fusion_emitters", "--xla_cpu_parallel_codegen")
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(_xla_flags(without=ours))}


def _xla_flags(*, without: tuple[str, ...]) -> list[str]:
    return [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(without)]
