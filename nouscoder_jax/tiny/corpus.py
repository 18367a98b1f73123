"""What the warm start imitates: statements with programs as a beginner would write them, slips included.

In: a seed. Out: an endless stream of (statement, completion text), never with a reserved pair of steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from nouscoder_jax.tiny.problems import Sketch, draw_sketch, reserved_pairs

SLIP_CHANCE = 0.30
"""Chance that a component is written with one of its slips."""
UNFINISHED_CHANCE = 0.02
"""Chance that the closing fence is missing, so that there is no program to run."""


def write_completion(sketch: Sketch, rng: random.Random) -> str:
    """The text of an answer: a fenced program, perhaps with slips."""
    codes = [
        rng.choice(part.slips) if part.slips and rng.random() < SLIP_CHANCE else part.code for part in sketch.components
    ]
    fence = "" if rng.random() < UNFINISHED_CHANCE else "```"
    return f"```python\n{sketch.assemble(codes)}{fence}"


def examples(seed: int) -> Iterator[tuple[str, str]]:
    """Statement and completion, for ever; the same for the same seed."""
    rng = random.Random(f"warm start {seed}")
    reserved = reserved_pairs(seed)
    while True:
        sketch = draw_sketch(rng)
        if not sketch.pairs & reserved:
            yield sketch.statement, write_completion(sketch, rng)
