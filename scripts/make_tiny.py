"""Remakes configs/tiny/: the problems, the tokenizer and the warm-started policy. The same seed gives the same files.

python scripts/make_tiny.py [--out DIR] [--seed 0] [--problems-only]
"""

import argparse
import time
from pathlib import Path

from nouscoder_jax import cli

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CONFIGS / "tiny", help="folder to write (default: configs/tiny)")
    parser.add_argument("--seed", type=int, default=0, help="seed of problems, corpus and weights (default: 0)")
    parser.add_argument("--problems-only", action="store_true", help="leave the policy as it is")
    options = parser.parse_args()
    from nouscoder_jax.tiny.problems import write_problems

    for path in write_problems(options.out, seed=options.seed):
        print(f"wrote {path}", flush=True)
    if options.problems_only:
        return
    from nouscoder_jax.tiny.warm_start import PARTS, make_tokenizer, warm_start

    started = time.monotonic()
    total = sum(num_updates for part in PARTS for num_updates, _ in part.phases)

    def on_update(number: int, loss: float) -> None:
        if number % 50 == 0 or number == total:
            print(f"warm start {number}/{total}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)

    config = cli.load_config_file(CONFIGS / "tiny.py")
    make_tokenizer(options.out / "policy", seed=options.seed)
    warm_start(config, options.out / "policy", seed=options.seed, parts=PARTS, on_update=on_update)
    print(f"wrote {options.out / 'policy'}")


if __name__ == "__main__":
    cli.run_script(main)
