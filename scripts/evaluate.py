"""Pass@k of a Hugging Face directory or of running SGLang servers.

    python scripts/evaluate.py --model DIR --problems FILE --samples 16 --max-tokens 128 [--out FOLDER]
    python scripts/evaluate.py --model DIR --problems FILE --max-tokens 81920 --contexts 40960,81920 \\
        --released 2024-08-01..2025-05-01 --out new --table new.md --picture new.png --compare old
    python scripts/evaluate.py --compare new old

--model, --problems, --samples and --max-tokens are short for the config fields model.path, data.held-out,
evaluation.samples-per-problem and evaluation.max-completion-tokens; prompts, sampling and sandbox are the config's.
A --model URL[,URL...] is evaluated as the servers have it; a directory is drawn from here, or, with --rollout.engine
sglang, by servers that are started for it. Past 40,960 tokens a Qwen3 is stretched (--model.yarn-factor 2.0, 2.5, 4.0).
Pass@1 is the mean over samples, then over problems, with a 95 % bootstrap interval over problems; it is also given by
difficulty, platform and month where the problems say them.
Exit code 0: evaluated; 1: the engine or the judge failed; 2: bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nouscoder_jax import cli
from nouscoder_jax.evaluation.command import add_options, run

SHORT = {
    "--model": "--model.path",
    "--problems": "--data.held-out",
    "--samples": "--evaluation.samples-per-problem",
    "--max-tokens": "--evaluation.max-completion-tokens",
}
TINY = Path(__file__).resolve().parents[1] / "configs/tiny.py"


def main() -> int:
    parser = cli.make_parser(__doc__ or "", default_config=str(TINY))
    add_options(parser)
    parts = (argument.partition("=") for argument in sys.argv[1:])
    config, options = cli.load(parser, [SHORT.get(name, name) + equals + value for name, equals, value in parts])
    return run(config, options)


if __name__ == "__main__":
    cli.run_script(main)
