"""Plans a run on GPUs that are not here: bytes a GPU, collectives, time, from the real GPU compiler.

    python scripts/plan.py --config configs/dapo.py [--gpu b200|h100|h200] [--gpus 48] [--json FILE|-]

Fields of the config can be overridden, for example --experience.row-tokens 40960. Exit code 2: it does not fit, or
another mistake; the line on stderr says what would fit.
"""

import os
import sys

# Before jax is imported: this machine computes nothing, and there is no driver whose version could be checked.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

from nouscoder_jax import cli
from nouscoder_jax.planning import plan


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config="configs/dapo.py")
    plan.add_options(parser)
    return plan.run(*cli.load(parser, sys.argv[1:]))


if __name__ == "__main__":
    cli.run_script(main)
