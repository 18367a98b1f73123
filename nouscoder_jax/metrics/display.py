"""What a person sees while a run goes on: one line a step, and live progress where the output is a terminal.

In: metrics of a step, progress of stages. Out: text on a stream; without a terminal plain lines, no control codes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from nouscoder_jax.metrics import names


def step_line(metrics: Mapping[str, int | float], *, num_steps: int) -> str:
    """The step in one line; a metric that is missing shows as `-`."""

    def show(name: str, pattern: str) -> str:
        return pattern.format(metrics[name]) if name in metrics else "-"

    measured = [(stage, metrics.get(names.SECONDS_PREFIX + stage)) for stage in names.STAGES]
    stages = (f"{stage} {seconds:.1f}" for stage, seconds in measured if seconds is not None)
    width = len(str(num_steps))
    return "  ".join(
        [
            f"step {show(names.STEP, '{:.0f}'):>{width}}/{num_steps}",
            f"policy v{show(names.POLICY_VERSION, '{:.0f}')}",
            f"reward {show(names.REWARD_MEAN, '{:+.2f}')}",
            f"solved {show(names.SOLVED_SHARE, '{:.0%}')}{_shares(metrics, names.OUTCOME_SHARES)}",
            f"groups {show(names.GROUPS_USED, '{:.0f}')} used/{show(names.GROUPS_DROPPED, '{:.0f}')} dropped"
            f"{_shares(metrics, names.DROP_SHARES)}",
            f"truncated {show(names.TRUNCATED_SHARE, '{:.0%}')}",
            f"{show(names.TOKENS_PER_S, '{:,.0f}')} tokens/s",
            f"{show(names.VERIFICATIONS_PER_S, '{:,.0f}')} verifications/s",
            f"staleness {show(names.STALENESS_BATCHES_MEAN, '{:.1f}')}",
            f"{show(names.SECONDS_TOTAL, '{:.1f}')} s ({', '.join(stages)})",
        ]
    )


def _shares(metrics: Mapping[str, int | float], shares: Mapping[str, str]) -> str:
    """In brackets, the reasons whose share is not 0, the largest first; nothing where there is none."""
    found = [(metrics[name], reason.replace("_", " ")) for reason, name in shares.items() if metrics.get(name, 0) > 0]
    found.sort(key=lambda one: -one[0])
    told = (f"{reason} {share:.0%}" if share > 0.005 else f"{reason} <1%" for share, reason in found)
    return f" ({', '.join(told)})" if found else ""


class Display:
    """The console of a run. Use as a context manager, so that the terminal is left as it was found.

    Example:
        with Display(num_steps=40, stream=None) as display:
            display.progress("generate", done=12, total=128)
            display.step(metrics)
    """

    def __init__(self, *, num_steps: int, stream: io.TextIOBase | None) -> None:
        """`stream` None: stdout."""
        self._stream = cast(IO[str], stream or sys.stdout)
        self._num_steps = num_steps
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        if self._stream.isatty():
            progress = self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._steps = progress.add_task("steps", total=num_steps)

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        if self._progress is not None:
            self._progress.console.print(text, soft_wrap=True, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def at(self, step: int) -> None:
        """Moves the bar of steps to where a resumed run goes on."""
        if self._progress is not None:
            self._progress.update(self._steps, completed=step)

    def step(self, metrics: Mapping[str, int | float]) -> None:
        """Prints the step's line and moves the bar of steps."""
        self.line(step_line(metrics, num_steps=self._num_steps))
        if self._progress is not None:
            self._progress.update(self._steps, completed=metrics[names.STEP])

    def progress(self, stage: str, *, done: int, total: int) -> None:
        """Moves the bar of a stage; it goes away when done reaches total. Shows nothing without a terminal."""
        if self._progress is None:
            return
        if done >= total:
            if stage in self._bars:
                self._progress.remove_task(self._bars.pop(stage))
        elif stage in self._bars:
            self._progress.update(self._bars[stage], completed=done, total=total)
        else:
            self._bars[stage] = self._progress.add_task(stage, total=total, completed=done)
