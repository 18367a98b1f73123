"""Pass@k of a Hugging Face directory, with the embedded engine.

    python scripts/evaluate.py --model DIR --problems FILE --samples 16 --max-tokens 128 [--out FILE]

--model, --problems, --samples and --max-tokens are short for the config fields model.path, data.held-out,
evaluation.samples-per-problem and evaluation.max-completion-tokens; prompts, sampling and sandbox are the config's.
Exit code 0: evaluated; 1: the engine or the judge failed; 2: bad input.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.config import UserError
from nouscoder_jax.evaluation import evaluate_directory
from nouscoder_jax.metrics.display import Display

SHORT = {
    "--model": "--model.path",
    "--problems": "--data.held-out",
    "--samples": "--evaluation.samples-per-problem",
    "--max-tokens": "--evaluation.max-completion-tokens",
}
TINY = Path(__file__).resolve().parents[1] / "configs/tiny.py"


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config=str(TINY))
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the result as JSON")
    parts = (argument.partition("=") for argument in sys.argv[1:])
    config, options = cli.load(parser, [SHORT.get(name, name) + equals + value for name, equals, value in parts])
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"--out got {options.out}; its folder does not exist, make it first")
    with Display(num_steps=1, stream=None) as display:
        result = asyncio.run(evaluate_directory(config, progress=display.progress, line=display.line))
    print("\n".join(result.table()))
    if options.out:
        options.out.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return 1 if math.isnan(result.pass_at_1) else 0


if __name__ == "__main__":
    cli.run_script(main)
