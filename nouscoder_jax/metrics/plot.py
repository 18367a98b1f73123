"""The picture of a run: held-out pass@1 against the step.

In: points (step, share). Out: a PNG file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_pass_at_1(
    path: Path,
    held_out: Sequence[tuple[int, float]],
    *,
    training: Sequence[tuple[int, float]],
    title: str,
) -> None:
    """Writes the picture: held-out pass@1 over (step, share) points, and training's solved share as a quiet line."""
    import matplotlib  # here, not above: importing it takes a second

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=150, layout="constrained")
    try:
        if training:
            axes.plot(*zip(*training, strict=True), color="0.7", linewidth=1.2, label="training problems, solved share")
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color="#0b6e4f", linewidth=2.2, marker="o", label="held-out pass@1")
        for step, share in (held_out[0], held_out[-1]) if len(held_out) > 1 else held_out:
            axes.annotate(
                f"{share:.1%}", (step, share), xytext=(0, -17), textcoords="offset points", ha="center", color="#0b6e4f"
            )
        axes.set(title=title, xlabel="step", ylabel="programs that pass every test", ylim=(0, 1.05))
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(axis="y", color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        if training or held_out:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)  # no point of the curve is below it
        figure.savefig(path)
    finally:
        pyplot.close(figure)
