"""What scripts/report.py does: reads runs, writes their page, or serves it.

In: options. Out: a file, or a server until Ctrl-C; lines on the terminal; an exit code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nouscoder_jax.config import UserError
from nouscoder_jax.metrics.status import status
from nouscoder_jax.report.contents import Contents
from nouscoder_jax.report.page import check_out, plotly_source, write_page
from nouscoder_jax.report.read import Run, open_runs
from nouscoder_jax.report.serve import open_server


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises UserError, ModuleNotFoundError (plotly)."""
    if options.text_chars < 0:
        raise UserError(f"--text-chars got {options.text_chars}; expected a number of at least 0, which keeps all")
    runs = open_runs(options.run_dirs)
    plotly_source()  # before minutes of reading
    return _serve(runs, options) if options.serve else _write(runs, options)


def _serve(runs: list[Run], options: argparse.Namespace) -> int:
    contents = Contents(runs, text_chars=options.text_chars)
    try:
        with open_server(contents, [one.name for one in runs], host=options.host, port=options.port) as server:
            print(f"the page is at {server.url} and follows its runs; Ctrl-C ends it", flush=True)
            server.serve_forever()
    finally:
        contents.close()
    return 0


def _write(runs: list[Run], options: argparse.Namespace) -> int:
    out: Path = options.out
    check_out(out, replace=options.replace)
    contents = Contents(runs, text_chars=options.text_chars)
    try:
        with status("reading") as say:
            contents.update(lambda done, total: say(f"read {done} of {total} files of rollouts"))
            say(f"writing {out}")
            size = write_page(contents, [one.name for one in runs], out)
    finally:
        contents.close()
    print(f"wrote {out}: {len(runs)} runs, {contents.pack.num_rollouts:,} rollouts, {size / 2**20:.1f} MiB")
    return 0
