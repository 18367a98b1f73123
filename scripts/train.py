"""Trains a policy: python scripts/train.py --config configs/tiny.py [--section.field VALUE ...]

Continue a run: python scripts/train.py --resume RUN_DIR
"""

import sys

from nouscoder_jax import cli


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config="configs/tiny.py")
    parser.add_argument(
        "--resume", metavar="RUN_DIR", help="continue the run in this folder from its newest checkpoint"
    )
    config, options = cli.load(parser, sys.argv[1:])
    from nouscoder_jax.loop.run import train  # after the command line is known to be right: jax takes seconds

    return train(config, resume=options.resume is not None)


if __name__ == "__main__":
    cli.run_script(main)
