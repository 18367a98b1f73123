"""NousCoder-14B with GSPO (arXiv:2507.18071): Qwen3-14B on competitive programming, 48 GPUs.

    python scripts/train.py --config configs/gspo.py --run-dir /runs/gspo \
        --mesh.coordinator-address HOST:PORT --rollout.urls http://HOST:30000 ...

configs/dapo.py with another objective. Cost: as there. Result: not run yet.
(Published, LiveCodeBench v6 at 81,920 tokens: 60.79 before, 66.26 after.)
"""

import runpy
from dataclasses import replace
from pathlib import Path

from nouscoder_jax.config import TrainConfig


def get_config() -> TrainConfig:
    dapo = runpy.run_path(str(Path(__file__).with_name("dapo.py")))["get_config"]()
    # The bounds of the GSPO paper: a sequence ratio moves far less than a token ratio.
    return replace(dapo, name="gspo", loss=replace(dapo.loss, name="gspo", clip_low=3e-4, clip_high=4e-4))
