"""An Atropos environment: draws problems, generates, judges, and pushes the scored groups to an Atropos server.

    python scripts/atropos.py --config configs/tiny.py --url http://127.0.0.1:8000 [--section.field VALUE ...]

Any trainer of that server trains on them; one of ours:

    python scripts/train.py --config configs/tiny.py --rollout.max-staleness 1
        --rollout.source atropos --rollout.source-url http://127.0.0.1:8000

Exit code 0: the trainer has had its batches, or Ctrl-C; 1: the server or the engine is gone; 2: bad input.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.config import UserError


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config="configs/tiny.py")
    parser.add_argument("--url", help="the Atropos server, as http://127.0.0.1:8000 (default: rollout.source_url)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="logs, unsent groups (default: runs/atropos-TIME)")
    config, options = cli.load(parser, sys.argv[1:])
    url = options.url or config.rollout.source_url
    if not url:
        raise UserError("got no Atropos server; name it: --url http://HOST:8000")
    from nouscoder_jax.loop.environment import run_environment  # after the command line is known to be right

    out = options.out or Path("runs") / datetime.now().strftime("atropos-%Y%m%d-%H%M%S")
    return run_environment(config, url=url, out=out, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    cli.run_script(main)
