"""The tiny problems as they are shipped, and the generator that made them."""

import json
from pathlib import Path

import pytest

from nouscoder_jax.tiny import problems as tiny
from nouscoder_jax.tiny.corpus import examples


def read(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (root / "configs" / "tiny" / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def train(root: Path) -> list[dict]:
    return read(root, "train.jsonl")


@pytest.fixture(scope="module")
def held_out(root: Path) -> list[dict]:
    return read(root, "held_out.jsonl")


def test_there_are_300_problems_of_30_families_with_8_tests_each(train: list[dict], held_out: list[dict]):
    assert len(train) >= 300 and len(held_out) >= 60
    assert len({record["family"] for record in train}) >= 30
    assert all(len(record["tests"]) >= 8 for record in train + held_out)
    assert all(record["time_limit_s"] > 0 for record in train + held_out)


def test_held_out_problems_share_no_statement_and_no_program_with_training(train: list[dict], held_out: list[dict]):
    for key in (lambda r: r["statement"], lambda r: r["solutions"][0]["code"], lambda r: r["id"]):
        seen = {key(record) for record in train}
        assert len(seen) == len(train)
        assert not seen & {key(record) for record in held_out}


def test_half_of_the_held_out_problems_combine_what_neither_training_nor_the_warm_start_combines(
    train: list[dict], held_out: list[dict]
):
    reserved = tiny.reserved_pairs(0)

    def pairs(record: dict) -> set[tuple[str, str]]:
        _, kept, mapped, output = record["combination"]
        return {(kept, output), (mapped, output)}

    assert sum(bool(pairs(record) & reserved) for record in held_out) >= len(held_out) / 2
    assert not any(pairs(record) & reserved for record in train)


def test_the_warm_start_never_shows_a_reserved_combination():
    reserved_statements = {s.statement for s in _sketches(2000) if s.pairs & tiny.reserved_pairs(0)}
    shown = {statement for statement, _ in _take(examples(0, part=1, plan_chance=0.2), 5000)}
    assert reserved_statements and not reserved_statements & shown


def test_reference_programs_pass_their_tests_and_slips_mostly_fail(train: list[dict]):
    for record in train:
        code = record["solutions"][0]["code"]
        assert all(tiny.run_program(code, t["input"]) == t["output"] for t in record["tests"][::4])
    sketches = _sketches(30)
    caught = total = 0
    for number, sketch in enumerate(sketches):
        tests = tiny.make_tests(sketch, tiny.random.Random(number))
        for wrong in tiny.slipped_programs(sketch) if tests else []:
            total += 1
            caught += any(tiny._differs(wrong, t["input"], t["output"]) for t in tests or [])
    assert caught / total > 0.85


def _sketches(count: int) -> list[tiny.Sketch]:
    rng = tiny.random.Random(7)
    return [tiny.draw_sketch(rng) for _ in range(count)]


def _take(iterator, count: int) -> list:
    return [next(iterator) for _ in range(count)]


def test_the_same_seed_writes_the_same_problems(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny, "NUM_TRAIN", 6)
    monkeypatch.setattr(tiny, "NUM_HELD_OUT", 3)
    monkeypatch.setattr(tiny, "NUM_HELD_OUT_RESERVED", 2)
    first = tiny.make_problems(3)
    assert first == tiny.make_problems(3)
    assert first != tiny.make_problems(4)
