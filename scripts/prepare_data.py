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
from nouscoder_jax.data.filters import Filters, parse_dates
from nouscoder_jax.data.prepare import BROKEN, REJECTED, REPORT, prepare
from nouscoder_jax.data.readers import READERS
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
    parser.add_argument("--dates", metavar="FIRST..LAST", help="only problems of these days, both included")
    parser.add_argument("--licenses", default="", metavar="PATTERNS", help="only these, such as 'MIT*,Apache-2.0*'")
    parser.add_argument(
        "--least-tests", type=int, default=1, metavar="N", help="only problems with as many (default: 1)"
    )
    parser.add_argument("--programs", type=int, default=4, metavar="N", help="programs kept of each label (default: 4)")
    parser.add_argument(
        "--held-out",
        default="",
        metavar="PATH",
        help="problem file or folder whose problems are left out, by what they say",
    )
    parser.add_argument(
        "--solved",
        default="",
        metavar="PATH",
        help="a run of the base policy: what it solves every time is left out",
    )
    parser.add_argument(
        "--verdicts", default="", metavar="FILE", help="of verify.py: problems whose right programs fail are left out"
    )
    parser.add_argument("--solved-of", type=int, default=8, metavar="N", help="with so many samples (default: 8)")
    parser.add_argument(
        "--likeness", type=float, default=0.8, metavar="SHARE",
        help="of two statements so much alike the later is left out; 0: none is (default: 0.8)",
    )  # fmt: skip
    parser.add_argument("--skip-broken", action="store_true", help="leave broken records out, and list them")
    options = parser.parse_args()
    filters = Filters(
        dates=parse_dates(options.dates) if options.dates else None,
        licenses=tuple(part.strip() for part in options.licenses.split(",") if part.strip()),
        least_tests=options.least_tests,
        programs=options.programs,
        held_out=options.held_out,
        verdicts=options.verdicts,
        solved=options.solved,
        solved_of=options.solved_of,
        likeness=options.likeness,
    )
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
