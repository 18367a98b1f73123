"""What all benches tell and write: figures of rounds, targets, tables, JSON; options that cannot be."""

import argparse
import json
from pathlib import Path

import pytest
from rich.console import Console

from nouscoder_jax.bench import options
from nouscoder_jax.bench.results import (
    Report,
    Target,
    markdown_table,
    plot_spreads,
    quotients,
    readable,
    rotated,
    spread,
)
from nouscoder_jax.config import UserError


@pytest.mark.parametrize(
    ("value", "told"),
    [(12345.6, "12,346"), (99.94, "99.9"), (0.0123456, "0.0123"), (0.00012, "0.0001"), (0.0, "0.0000")],
)
def test_figures_have_three_digits_that_count_and_no_exponent(value, told):
    assert readable(value) == told


def test_a_figure_of_several_rounds_is_the_median_between_the_lowest_and_the_highest():
    assert spread([3.0, 1.0, 10.0]) == "3.00 (1.00..10.0)"
    assert (spread([2.0], "x"), spread([])) == ("2.00x", "-")


def test_a_ratio_compares_within_a_round():
    assert quotients([10.0, 60.0], [20.0, 30.0, 5.0]) == [0.5, 2.0]


def test_everybody_begins_a_round_once():
    assert [rotated("abc", number)[0] for number in range(-1, 3)] == ["c", "a", "b", "c"]
    assert sorted(rotated("abc", 2)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("got", "at_least", "met"), [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False)]
)
def test_a_target_is_met_on_its_side(got, at_least, met):
    target = Target(what="speed", goal=2.0, got=got, at_least=at_least)
    assert target.met is met
    assert target.to_dict() == {"what": "speed", "goal": 2.0, "got": got, "met": met}
    assert target.line().endswith(" met" if met else " NOT MET")


def test_what_was_not_measured_is_neither_met_nor_missed():
    target = Target(what="speed", goal=2.0, got=None)
    assert target.met is None and target.line() == "target: speed >= 2: not measured"


def test_a_report_shows_and_writes_rows_notes_targets_and_where_it_ran(tmp_path):
    facts = {"date": "today", "commit": "abc", "hardware": {"cpu": "one"}, "versions": {}, "load_before": 3.0}
    report = Report(
        bench="speed", facts=facts, title="speed", heads=["who", "tokens/s"], rows=[["ours", "10"], ["theirs"]],
        notes=["[a] note"], targets=[Target(what="ours", goal=9.0, got=10.0)], content={"runs": [1, 2]},
    )  # fmt: skip
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.show(console)
    shown = console.export_text()
    for told in ("ours", "theirs", "[a] note", "target: ours >= 9: 10.0 met", "commit abc", "NOISY: the load was 3.0"):
        assert told in shown
    report.write(tmp_path / "out.json")
    kept = json.loads((tmp_path / "out.json").read_text())
    assert (kept["bench"], kept["commit"], kept["runs"], kept["targets"][0]["met"]) == ("speed", "abc", [1, 2], True)


def test_markdown_has_the_figures_on_the_right_and_words_on_the_left():
    lines = markdown_table(["who", "tokens/s", "why"], [["ours", "10", "so"]], remark=True).splitlines()
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == ["---", "---:", "---"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["ours", "10", "so"]


def test_a_picture_is_drawn_of_figures_near_each_other_and_far_apart(tmp_path):
    panels = {"tokens/s": {"ours": [1.0, 2.0], "theirs": [900.0]}, "CPU": {"ours": [1.0], "theirs": [2.0]}}
    plot_spreads(tmp_path / "a.png", panels, title="", colors={"ours": "red"})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_words_between_commas_are_those_that_there_are_each_once():
    assert options.chosen("only", "b, a,b", ["a", "b"]) == ["b", "a"]
    assert options.chosen("only", "", ["a", "b"]) == ["a", "b"]
    with pytest.raises(UserError, match="--only got c; there are a, b"):
        options.chosen("only", "a,c", ["a", "b"])


def test_an_option_that_cannot_be_is_told_before_anything_is_measured(tmp_path):
    parsed = argparse.Namespace(rounds=0, out=Path("no/such/out.json"), plot=None)
    with pytest.raises(UserError, match="--rounds is 0; use 1 or more"):
        options.check_numbers(parsed, "rounds")
    with pytest.raises(UserError, match=r"--out got no/such/out.json; its folder does not exist"):
        options.check_outputs(parsed)
    with pytest.raises(UserError, match="a folder; give a file"):
        options.check_outputs(argparse.Namespace(out=tmp_path))
