"""The tiny config repeats: two runs on one machine agree bit for bit, and with the committed trace on a like one.

NOUSCODER_TRAINED names the folder of a `make train` on this machine, which is then the second run.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import small_run

from nouscoder_jax.run_folder import RunFolder

NUM_STEPS = 3
FIELDS = ("step", "reward/mean", "update/loss", "update/grad_norm", "update/entropy", "rollouts/drawn")


def machine() -> dict[str, str]:
    """What decides the bits: processor, its instruction sets, jax."""
    import jax
    import jaxlib

    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    first = cpuinfo.partition("\n\n")[0]
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    # A cloud's name for a processor has no model in it.
    model = ".".join(facts.get(name, "") for name in ("cpu family", "model", "stepping"))
    flags = hashlib.sha256(" ".join(sorted(facts.get("flags", "").split())).encode()).hexdigest()[:8]
    name = facts.get("model name", "")
    return {
        "processor": f"{platform.machine()} {name} {model} [{flags}] x {os.cpu_count()}",
        "jax": f"{jax.__version__} / {jaxlib.__version__}",
    }


def trace(root: Path, folder: Path) -> list[dict[str, str]]:
    """The numbers of a run as a user makes it."""
    few = f"--data.held-out={small_run.HERE / 'held_out_8.jsonl'}"  # evaluation draws from seeds of its own
    arguments = [f"--run-dir={folder}", f"--num-steps={NUM_STEPS}", few, "--evaluation.samples-per-problem=1"]
    subprocess.run(
        [sys.executable, "scripts/train.py", "--config", "configs/tiny.py", "--verifier.backend=local", *arguments],
        check=True,
        cwd=root,
        env=small_run.user_environment(),
        timeout=900,
        stdout=subprocess.DEVNULL,
    )
    return numbers(folder)


def numbers(folder: Path) -> list[dict[str, str]]:
    """Of a run's first steps, as hexadecimal floats: equal text is equal bits."""
    lines = [json.loads(line) for line in RunFolder(path=folder).metrics.read_text().splitlines()]
    return [
        {name: float(line[name]).hex() for name in FIELDS if name in line}
        for line in lines
        if 0 < line["step"] <= NUM_STEPS
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_steps_repeat_bit_for_bit_and_equal_the_committed_trace(root: Path, tmp_path: Path):
    first = trace(root, tmp_path / "first")
    trained = os.environ.get("NOUSCODER_TRAINED")
    second = numbers(Path(trained)) if trained else trace(root, tmp_path / "second")
    assert len(first) == NUM_STEPS
    assert first == second
    path = root / "tests" / "baselines" / "tiny_loss_trace.json"
    if os.environ.get("UPDATE_BASELINES"):
        path.write_text(json.dumps({"machine": machine(), "steps": first}, indent=1) + "\n")
    committed = json.loads(path.read_text())
    if committed["machine"] != machine():
        pytest.skip(f"two runs agree; the committed trace is from {committed['machine']}, this is {machine()}")
    assert first == committed["steps"]
