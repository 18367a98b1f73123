"""Makes one folder of problems of public sets: python scripts/prepare_data.py FORMAT=PATH [...] --out DIR

    python scripts/prepare_data.py taco=hub:likaixin/TACO-verified synthetic1=synthetic1/ --out problems
    python scripts/prepare_data.py livecodebench=test*.jsonl --dates 2024-08-01..2025-05-01 --out held_out

FORMAT is one of {formats}.
PATH is a file (.jsonl, .jsonl.gz, .parquet), a folder of them, for kattis a folder of packages, or
hub:OWNER/NAME[@REVISION][:PATTERN], a data set on the Hugging Face hub and which of its files. The folder DIR then
stands where a problem file does: --data.problems DIR, verify.py --problems DIR. Interrupted, the same command goes on.
What is not in it stands in DIR/rejected.jsonl, a line a record, with its place and the reason. Exit code 0: prepared;
2: bad input, such as a broken record, which is named; what was done before it is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from nouscoder_jax.cli import run_script
from nouscoder_jax.config import UserError
from nouscoder_jax.data.filters import add_options, filters_of
from nouscoder_jax.data.prepare import BROKEN, REJECTED, REPORT, prepare
from nouscoder_jax.data.readers.formats import READERS
from nouscoder_jax.data.sources import parse_source
from nouscoder_jax.metrics.status import status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def main() -> None:
    about = (__doc__ or "").replace("{formats}", ", ".join(READERS))
    parser = _Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="FORMAT=PATH", help="one or more, read in this order")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, new or begun before")
    add_options(parser)
    parser.add_argument("--skip-broken", action="store_true", help="leave broken records out, and list them")
    options = parser.parse_args()
    filters = filters_of(options)
    sources = [parse_source(words) for words in options.sources]
    with status("looking for files") as say:
        done = prepare(sources, options.out, filters=filters, skip_broken=options.skip_broken, say=say)
    print("\n".join(done.table()))
    print(done.line() + (f"; the others: {options.out / REJECTED}" if done.rejected else ""))
    if done.rejected.get(BROKEN):
        print(
            f"{done.rejected[BROKEN]} broken records are left out; each is in {options.out / REJECTED}", file=sys.stderr
        )
    print(f"wrote {options.out}; numbers and reasons: {options.out / REPORT}")


if __name__ == "__main__":
    run_script(main)
