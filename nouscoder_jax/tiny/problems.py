"""The tiny problems: drawn from the grammar, with hidden tests and a reference program each.

In: a seed. Out: training and held-out problems, as the records that nouscoder_jax/data/problems.py reads.

What is held out: some pairs of steps (a filter with an output, a map with an output) are reserved. No training problem
and no program of the warm start contains a reserved pair; two thirds of the held-out problems do.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nouscoder_jax.tiny.grammar import DOMAINS, LETTERS, Component, Domain

NUM_TRAIN = 384
NUM_HELD_OUT = 64
NUM_HELD_OUT_RESERVED = 40
NUM_TESTS = 8
TIME_LIMIT_S = 2.0
MEMORY_LIMIT_MB = 256
RESERVED_SHARE = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """One problem before it has words and tests: four components and their constants.

    Example:
        Sketch(domain=NUMBERS, source=..., filter=..., map=..., output=..., k=3, c="b", wording=(0, 1, 0, 1))
    """

    domain: Domain
    source: Component
    filter: Component
    map: Component
    output: Component
    k: int
    c: str
    wording: tuple[int, int, int, int]
    """Which phrase of each component."""

    @property
    def components(self) -> tuple[Component, Component, Component, Component]:
        """Source, filter, map, output."""
        return (self.source, self.filter, self.map, self.output)

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """Pairs of steps that can be reserved: (filter, output) and (map, output)."""
        return {(step.name, self.output.name) for step in (self.filter, self.map) if step.code}

    def fill(self, text: str) -> str:
        """`text` with this sketch's constants."""
        return text.replace("{k}", str(self.k)).replace("{c}", self.c)

    @property
    def statement(self) -> str:
        """The English of the problem."""
        phrases = (part.phrases[i] for part, i in zip(self.components, self.wording, strict=True))
        return self.fill(" ".join(p for p in phrases if p))

    @property
    def plan(self) -> str:
        """The names of the components that do something."""
        return ", ".join(part.name.replace("_", " ") for part in self.components if part.code)

    @property
    def program(self) -> str:
        """The reference program."""
        return self.assemble([part.code for part in self.components])

    def assemble(self, codes: list[str]) -> str:
        """A program from one piece of Python for each component."""
        return self.fill("\n".join(code for code in codes if code) + "\n")


def reserved_pairs(seed: int) -> set[tuple[str, str]]:
    """The pairs of steps that neither training problems nor the warm start may contain."""
    rng = random.Random(f"reserved pairs {seed}")
    reserved: set[tuple[str, str]] = set()
    for domain in DOMAINS.values():
        steps = [s for s in (*domain.filters, *domain.maps) if s.code]
        pairs = [(step.name, output.name) for step in steps for output in domain.outputs]
        reserved.update(rng.sample(pairs, round(RESERVED_SHARE * len(pairs))))
    return reserved


def draw_sketch(rng: random.Random) -> Sketch:
    """One sketch: numbers half of the time, words and text a quarter each."""
    domain = rng.choices(tuple(DOMAINS.values()), weights=(2, 1, 1))[0]
    parts = [rng.choice(table) for table in (domain.sources, domain.filters, domain.maps, domain.outputs)]
    return Sketch(
        domain=domain,
        source=parts[0],
        filter=parts[1],
        map=parts[2],
        output=parts[3],
        k=rng.randint(2, 9),
        c=rng.choice(LETTERS),
        wording=tuple(rng.randrange(len(part.phrases)) for part in parts),  # pyright: ignore[reportArgumentType]
    )


def run_program(program: str, stdin: str) -> str | None:
    """stdout of one of our own programs on `stdin`, or None where it raises. In this process: for trusted text only."""
    lines: Iterator[str] = iter(stdin.splitlines())

    def read_line() -> str:
        try:
            return next(lines)
        except StopIteration as end:
            raise EOFError from end

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(program, "program", "exec"), {"input": read_line, "__name__": "__main__"})
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, EOFError):
        return None
    return out.getvalue()


def slipped_programs(sketch: Sketch) -> list[str]:
    """Every program with exactly one slip."""
    codes = [part.code for part in sketch.components]
    return [
        sketch.assemble([*codes[:i], slip, *codes[i + 1 :]])
        for i, part in enumerate(sketch.components)
        for slip in part.slips
    ]


def make_tests(sketch: Sketch, rng: random.Random) -> list[dict[str, str]] | None:
    """Hidden tests that tell the reference from as many one-slip programs as 200 random inputs can; None where the
    outputs hardly vary."""
    candidates = list(dict.fromkeys(sketch.domain.make_input(sketch.source.name, rng) for _ in range(200)))
    expected = {stdin: run_program(sketch.program, stdin) for stdin in candidates}
    usable = [stdin for stdin in candidates if expected[stdin] is not None]
    if len(usable) < NUM_TESTS:
        return None
    chosen: list[str] = []
    for wrong in slipped_programs(sketch):
        if not any(_differs(wrong, stdin, expected[stdin]) for stdin in chosen):
            chosen += [stdin for stdin in usable if _differs(wrong, stdin, expected[stdin])][:1]
    chosen += [stdin for stdin in usable if stdin not in chosen][: max(0, NUM_TESTS - len(chosen))]
    if len({expected[stdin] for stdin in chosen}) < 2 or not any((expected[s] or "").strip() for s in chosen):
        return None
    return [{"input": stdin, "output": expected[stdin] or ""} for stdin in chosen]


def _differs(program: str, stdin: str, expected: str | None) -> bool:
    actual = run_program(program, stdin)
    return actual is None or actual.split() != (expected or "").split()


def make_problems(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) records; no statement and no reference program occurs twice."""
    rng = random.Random(f"tiny problems {seed}")
    reserved = reserved_pairs(seed)
    statements: set[str] = set()
    programs: set[str] = set()

    def draw(split: str, index: int, wants_reserved: bool, family: Component | None) -> dict[str, Any]:
        while True:
            sketch = draw_sketch(rng)
            if family is not None and sketch.output is not family:
                continue
            if bool(sketch.pairs & reserved) != wants_reserved:
                continue
            if sketch.statement in statements or sketch.program in programs:
                continue
            tests = make_tests(sketch, rng)
            if tests is None:
                continue
            statements.add(sketch.statement)
            programs.add(sketch.program)
            return _record(sketch, f"tiny/{split}/{index:04d}", tests, wants_reserved)

    families = [output for domain in DOMAINS.values() for output in domain.outputs]
    train = [draw("train", i, False, families[i % len(families)]) for i in range(NUM_TRAIN)]
    held_out = [draw("held_out", i, i < NUM_HELD_OUT_RESERVED, None) for i in range(NUM_HELD_OUT)]
    return train, held_out


def _record(sketch: Sketch, problem_id: str, tests: list[dict[str, str]], reserved: bool) -> dict[str, Any]:
    return {
        "id": problem_id,
        "source": "nouscoder-jax",
        "license": "Apache-2.0",
        "family": f"{sketch.domain.name}/{sketch.output.name}",
        "combination": [part.name for part in sketch.components],
        "reserved_combination": reserved,
        "statement": sketch.statement,
        "io": "stdin",
        "fn_name": None,
        "tests": tests,
        "time_limit_s": TIME_LIMIT_S,
        "memory_limit_mb": MEMORY_LIMIT_MB,
        "checker": "tokens",
        "solutions": [{"language": "python3", "label": "accepted", "code": sketch.program}],
    }


def write_problems(out_dir: Path, *, seed: int) -> tuple[Path, Path]:
    """Writes train.jsonl and held_out.jsonl into `out_dir`; returns their paths."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = (out_dir / "train.jsonl", out_dir / "held_out.jsonl")
    for path, records in zip(paths, make_problems(seed), strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return paths
