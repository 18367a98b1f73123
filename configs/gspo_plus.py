"""NousCoder-14B with GSPO+: GSPO (arXiv:2507.18071), every token weighing the same; Qwen3-14B, 48 GPUs.

    python scripts/train.py --config configs/gspo_plus.py --run-dir /runs/gspo_plus \
        --mesh.coordinator-address HOST:PORT --rollout.urls http://HOST:30000 ...

configs/dapo.py with another objective. Cost: as there. Result: not run yet.
(Published, LiveCodeBench v6 at 81,920 tokens: 60.79 before, 66.52 after.)
"""

import runpy
from dataclasses import replace
from pathlib import Path

from nouscoder_jax.config import TrainConfig


def get_config() -> TrainConfig:
    dapo = runpy.run_path(str(Path(__file__).with_name("dapo.py")))["get_config"]()
    # Published in words only: the formula (nouscoder_jax/losses.py) is our inference. The bounds are the GSPO paper's.
    return replace(dapo, name="gspo_plus", loss=replace(dapo.loss, name="gspo_plus", clip_low=3e-4, clip_high=4e-4))
