"""What the warm start imitates: statements with programs as beginners would write them, slips included.

Some authors plan and slip rarely, most do not plan and slip often. So the imitator knows both ways and mostly takes the
worse one; that planning pays is for reinforcement learning to find out.

In: a seed. Out: an endless stream of (statement, completion text), never with a reserved pair of steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from nouscoder_jax.tiny.problems import Sketch, draw_sketch, reserved_pairs

SLIP_CHANCE_WITH_PLAN = 0.05
"""Chance that a component is written with one of its slips, after a plan."""
SLIP_CHANCE_WITHOUT_PLAN = 0.4
"""The same without a plan."""
UNFINISHED_CHANCE = 0.02
"""Chance that the closing fence is missing, so that there is no program to run."""


def write_completion(sketch: Sketch, rng: random.Random, *, plan_chance: float) -> str:
    """The text of an answer: a fenced program, perhaps with a plan (a comment before it), perhaps with slips."""
    has_plan = rng.random() < plan_chance
    slip_chance = SLIP_CHANCE_WITH_PLAN if has_plan else SLIP_CHANCE_WITHOUT_PLAN
    codes = [
        rng.choice(part.slips) if part.slips and rng.random() < slip_chance else part.code for part in sketch.components
    ]
    plan = f"# plan: {sketch.plan}\n" if has_plan else ""
    fence = "" if rng.random() < UNFINISHED_CHANCE else "```"
    return f"```python\n{plan}{sketch.assemble(codes)}{fence}"


def examples(seed: int, *, part: int, plan_chance: float) -> Iterator[tuple[str, str]]:
    """Statement and completion, for ever; the same for the same arguments. `plan_chance`: share of authors who plan."""
    rng = random.Random(f"warm start {seed}" + (f" part {part}" if part else ""))
    reserved = reserved_pairs(seed)
    while True:
        sketch = draw_sketch(rng)
        if not sketch.pairs & reserved:
            yield sketch.statement, write_completion(sketch, rng, plan_chance=plan_chance)
