"""Starts the SGLang servers that a config asks for, on this machine, and follows them until Ctrl-C.

    python scripts/serve.py --config configs/tiny.py [--server.num-servers 2 ...] [--log-dir DIR]
    python scripts/serve.py --config configs/dapo.py --print

Says what to train with (--rollout.urls ...) once all answer. A server that ends is said and started again; after three
ends within 10 minutes all are stopped. GPUs are those of CUDA_VISIBLE_DEVICES, in order; without it, all from 0.
Exit code 0: stopped by Ctrl-C or SIGTERM; 1: a server was given up; 2: bad input, or a server that did not start.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.rollout.serve import command_lines, serve


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config="configs/tiny.py")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="what the servers print (default: runs/serve-TIME)")
    parser.add_argument("--print", action="store_true", help="print a shell line for each server and start nothing")
    config, options = cli.load(parser, sys.argv[1:])
    if options.print:
        print(*command_lines(config), sep="\n")
        return 0
    log_dir = options.log_dir or Path("runs") / datetime.now().strftime("serve-%Y%m%d-%H%M%S")
    return serve(config, log_dir=log_dir, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    cli.run_script(main)
