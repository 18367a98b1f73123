"""What all benches share: turns, ratios, targets, tables, options that cannot be, children, CPU time."""

import argparse
import json
import re
import subprocess
import sys
import time

import pytest

from nouscoder_jax.bench import options, rounds
from nouscoder_jax.bench.cpu import tree_cpu_s
from nouscoder_jax.bench.peers import Plan, peers_python, started
from nouscoder_jax.bench.results import Report, Target, markdown_table, plot_spreads, readable, spread
from nouscoder_jax.bench.rounds import Contender
from nouscoder_jax.bench.worker import Worker, WorkerError
from nouscoder_jax.config import UserError

SERVED = """
import sys
from nouscoder_jax.bench.worker import serve, timed
left = int(sys.argv[1])
def turn(**task):
    global left
    left -= 1
    if left < 0:
        raise SystemExit("out of luck")
    return {"wall_s": 2.0, "cpu_s": 1.0, "work": 10, "loss": 0.5} | {"task": len(task)}
def make(folder):
    print("a library says hello")
    return {"folder": folder.name}, {"turn": turn, "add": lambda a, b: timed(lambda: {"sum": a + b})}
serve(make)
open("ended", "w").close()
"""


def contender(name, speeds, **fields):
    """One that took a second for so much work in each round."""
    found = [
        {"wall_s": 1.0, "cpu_s": 2.0, "work": speed, "speed": speed, "cpu_s_per_work": 2 / speed} for speed in speeds
    ]
    return Contender(name=name, turn=dict, rounds=found, **fields)


def served(left):
    return (sys.executable, "-c", SERVED, str(left))


@pytest.mark.parametrize(
    ("value", "told"),
    [(12345.6, "12,346"), (99.94, "99.9"), (0.0123456, "0.0123"), (0.00012, "0.0001"), (0.0, "0.0000")],
)
def test_figures_have_three_digits_that_count_and_no_exponent(value, told):
    assert readable(value) == told


def test_a_figure_of_several_rounds_is_the_median_between_the_lowest_and_the_highest():
    assert (spread([3.0, 1.0, 10.0]), spread([2.0]), spread([])) == ("3.00 (1.00..10.0)", "2.00", "-")


@pytest.mark.parametrize(
    ("got", "at_least", "met"),
    [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False), (None, True, None)],
)
def test_a_target_is_met_on_its_side_and_neither_met_nor_missed_where_nothing_was_measured(got, at_least, met):
    target = Target(what="speed", goal=2.0, got=got, at_least=at_least)
    assert target.met is met
    assert target.to_dict() == {"what": "speed", "goal": 2.0, "got": got, "met": met}


def test_each_round_begins_with_the_next_contender_and_the_warm_up_counts_for_nothing():
    turns = []
    both = [Contender(name=name, turn=lambda name=name: turns.append(name)) for name in "ab"]
    rounds.take_turns(both, rounds=2, warm_up=1)
    assert turns == ["b", "a", "a", "b", "b", "a"]
    assert [(len(one.warm_up), len(one.rounds)) for one in both] == [(1, 2), (1, 2)]


def test_no_round_but_the_first_starts_after_the_limit():
    one = Contender(name="a", turn=dict)
    rounds.take_turns([one], rounds=9, until=time.monotonic())
    assert len(one.rounds) == 1


def test_what_a_turn_returns_stands_for_what_is_measured_here():
    one = Contender(name="a", turn=lambda: {"wall_s": 2.0, "cpu_s": 1.0, "work": 10})
    rounds.take_turns([one], rounds=1)
    assert (one.median("speed"), one.median("cpu_s_per_work")) == (5.0, 0.1)


def test_a_contender_that_fails_is_skipped_with_its_reason_and_the_others_go_on():
    def broken():
        raise ValueError("no such\nthing")

    both = [Contender(name="broken", turn=broken), Contender(name="works", turn=dict)]
    rounds.take_turns(both, rounds=2)
    assert [(one.skipped, len(one.rounds)) for one in both] == [("no such thing", 0), ("", 2)]


def test_a_short_turn_is_repeated_and_counts_as_the_mean():
    calls = []
    one = Contender(name="a", turn=lambda: calls.append(0))
    rounds.take_turns([one], rounds=1, warm_up=0, at_least_s=0.02)
    assert len(calls) > 1 and one.rounds[0]["wall_s"] < 0.02


def test_a_ratio_compares_within_a_round():
    a, b = contender("a", [10.0, 60.0, 30.0]), contender("b", [20.0, 30.0, 30.0])
    assert rounds.ratios(a, b) == [0.5, 2.0, 1.0]
    assert rounds.ratio(a, b) == 1.0 and rounds.ratio(a, None) is None


def test_a_report_shows_and_writes_rows_notes_targets_and_where_it_ran(tmp_path, capsys):
    contenders = [contender("ours", [10, 20, 30]), contender("theirs", [10, 10, 10]), contender("x", [], skipped="why")]
    parts = rounds.table(contenders, {"GB/s": ("speed", 2.0)}, reference=lambda one: "theirs")
    facts = {"date": "today", "commit": "abc", "load_before": 3.0}
    report = Report(bench="copy", facts=facts, **parts, targets=[Target(what="ours", goal=9.0, got=10.0)])
    report.finish(argparse.Namespace(out=tmp_path / "out.json", plot=tmp_path / "out.png", rounds=3, image="a name"))
    shown = capsys.readouterr().out
    assert "40.0 (20.0..60.0)" in shown and "2.00 (1.00..3.00)" in shown
    for told in ("skipped: x: why", "target: ours >= 9: 10.0 met", "commit abc", "NOISY: the load was 3.0"):
        assert told in shown
    kept = json.loads((tmp_path / "out.json").read_text())
    assert (kept["bench"], kept["commit"], kept["settings"], kept["targets"][0]["met"]) == (
        "copy", "abc", {"rounds": 3, "image": "a name"}, True
    )  # fmt: skip
    assert [one["median"].get("speed") for one in kept["contenders"]] == [20, 10, None]


def test_a_picture_has_a_panel_a_figure_with_a_row_a_name(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    panels = {"tokens/s": {"ours": [1.0, 2.0], "theirs": [900.0]}, "CPU": {"ours": [1.0], "theirs": [2.0]}}
    plot_spreads(tmp_path / "a.png", panels, title="t")
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["ours", "theirs"]
    assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in left.texts] == ["1.50", "900"]


def test_markdown_has_the_figures_on_the_right_and_words_on_the_left():
    lines = markdown_table(["who", "tokens/s", "why"], [["ours", "10", "so"]], remark=True).splitlines()
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == ["---", "---:", "---"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["ours", "10", "so"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds: got 0; use a whole number, 1 or more"),
        (["--only", "a,c"], "--only: got c; there are a, b"),
        (["--out", "no/such/out.json"], "--out: got no/such/out.json; its folder does not exist"),
        (["--plot", "."], "a folder; give a file"),
        (["--readme", "none.md"], "No such file"),
        (["--readme", __file__], "block: begin .* 0 times"),
    ],
)
def test_an_option_that_cannot_be_is_told_with_exit_code_2(arguments, told, capsys):
    parser = argparse.ArgumentParser()
    options.add_rounds(parser, rounds=3, quick="tiny", names=("a", "b"))
    parser.add_argument("--readme", type=options._file_with("block"))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    assert re.search(told, " ".join(capsys.readouterr().err.split()))


def test_lists_hold_each_once():
    assert options.numbers(0)("3,1,3") == [3, 1]
    assert options.some_of(["a", "b"])("b, a,b") == ["b", "a"]


def test_a_child_answers_by_name_with_arguments_and_what_its_libraries_print_is_no_answer(tmp_path):
    with Worker("one", list(served(9)), tmp_path, {}) as child:
        assert child.wait_ready() == {"folder": tmp_path.name}
        answer = child.ask("add", a=1, b=2)
        assert answer["sum"] == 3 and answer["wall_s"] >= 0 and answer["cpu_s"] >= 0
        with pytest.raises(WorkerError, match=r"one ended with 1: .*KeyError: 'subtract'"):
            child.ask("subtract")


def test_every_process_takes_its_turn_and_one_that_dies_or_is_missing_is_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plans = [
        Plan(name="ours", command=served(9), num_threads=1, tasks=("short", "long")),
        Plan(name="trl", command=served(2), num_threads=1),
        Plan(name="tunix", command=(), num_threads=1, missing="no environment"),
    ]
    with started(plans, tmp_path) as (contenders, ask):
        rounds.take_turns(contenders, rounds=2)
        assert ask("ours", "turn")["loss"] == 0.5
    found = [(one.name, len(one.rounds), one.facts) for one in contenders]
    facts = {"folder": tmp_path.name}
    assert found == [("ours short", 2, facts), ("ours long", 2, facts), ("trl", 0, facts), ("tunix", 0, {})]
    assert "out of luck" in contenders[2].skipped and contenders[3].skipped == "no environment"
    assert contenders[0].median("speed") == 5.0 and contenders[0].median("task") == 1
    assert (tmp_path / "ended").exists(), "a child ends by itself before it is killed"


def test_a_folder_that_is_no_environment_is_not_filled(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="no bin/python"):
        peers_python(tmp_path)


def test_cpu_time_counts_what_has_ended_and_nobody_elses():
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    before = tree_cpu_s()
    subprocess.run([sys.executable, "-I", "-c", burn], check=True)
    assert tree_cpu_s() - before >= 0.38  # /proc counts in ticks of 10 ms
    with subprocess.Popen(["sleep", "60"]) as other:
        apart, before = tree_cpu_s([other.pid]), tree_cpu_s()
        subprocess.run([sys.executable, "-I", "-c", burn], check=True)
        assert tree_cpu_s([other.pid]) - apart < 0.05 < tree_cpu_s() - before
        other.kill()
