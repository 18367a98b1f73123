"""NousCoder-14B with GRPO (arXiv:2402.03300): Qwen3-14B on competitive programming, 48 GPUs.

    python scripts/train.py --config configs/grpo.py --run-dir /runs/grpo \
        --mesh.coordinator-address HOST:PORT --rollout.urls http://HOST:30000 ...

configs/dapo.py with another objective. Cost: as there. Result: not run yet.
(Published on LiveCodeBench v6: none with GRPO.)
"""

import runpy
from dataclasses import replace
from pathlib import Path

from nouscoder_jax.config import TrainConfig


def get_config() -> TrainConfig:
    dapo = runpy.run_path(str(Path(__file__).with_name("dapo.py")))["get_config"]()
    # PPO's and GRPO's usual bound, on both sides.
    return replace(dapo, name="grpo", loss=replace(dapo.loss, name="grpo", clip_low=0.2, clip_high=0.2))
