"""Trains a policy: python scripts/train.py --config configs/tiny.py [--section.field VALUE ...]

Continue a run: python scripts/train.py --resume RUN_DIR [--resume-step STEP] [--resume-with-changes]
"""

import sys

from nouscoder_jax import cli
from nouscoder_jax.config import UserError


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config="configs/tiny.py")
    parser.add_argument(
        "--resume", metavar="RUN_DIR", help="continue the run in this folder from its newest checkpoint"
    )
    parser.add_argument(
        "--resume-step", type=int, metavar="STEP", help="go on from this step's checkpoint; later ones are set aside"
    )
    parser.add_argument(
        "--resume-with-changes", action="store_true", help="allow settings that change what the run's figures mean"
    )
    config, options = cli.load(parser, sys.argv[1:])
    for name, given in (("step", options.resume_step is not None), ("with-changes", options.resume_with_changes)):
        if given and options.resume is None:
            raise UserError(f"got --resume-{name} without --resume; name the run: --resume RUN_DIR")
    from nouscoder_jax.loop.open_folder import Resume
    from nouscoder_jax.loop.run import train  # after the command line is known to be right: jax takes seconds

    resume = Resume(step=options.resume_step, with_changes=options.resume_with_changes)
    return train(config, resume=resume if options.resume is not None else None)


if __name__ == "__main__":
    cli.run_script(main)
