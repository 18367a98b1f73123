"""`bench.py conformance`: a difference is seen, a stated one is undone, and the recorded table agrees."""

import argparse
import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from nouscoder_jax.bench.conformance import command, environment, inputs, ours, table
from nouscoder_jax.bench.conformance.compare import agrees, compare, is_failing
from nouscoder_jax.bench.conformance.environment import Answers
from nouscoder_jax.bench.conformance.libraries import placeholders
from nouscoder_jax.bench.conformance.rows import ROWS, Row
from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.config import UserError

PAGE = Path(__file__).parents[2] / "nouscoder_jax" / "bench" / "README.md"
BASELINE = Path(__file__).parents[1] / "baselines" / "conformance.json"
PEERS_ENV = os.environ.get("NOUSCODER_PEERS_ENV", "")

PLAIN = Row(objective="dapo", library="verl", theirs="vanilla")
STATED = Row(objective="grpo", library="trl", theirs="loss_type grpo", difference="twice ours", undone="grpo, twice")

NUMBERS = {
    "dapo": (np.array(0.5, np.float32), np.array([[0.1, -0.2]])),
    "grpo": (np.array(0.25, np.float32), np.array([[0.3, 0.0]])),
    "grpo, twice": (np.array(0.5, np.float32), np.array([[0.6, 0.0]])),
}


def known_numbers(name: str, one: str):
    return NUMBERS[name]


def compared(row: Row, value: float, gradient: list[float]) -> dict:
    theirs = {"even, seed 0": (np.array(value, np.float32), np.array([gradient]))}
    return compare(row, known_numbers, theirs, failure="")


def options(**changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return argparse.Namespace(**(vars(parser.parse_args([])) | changes))


def results(*rows: dict) -> dict:
    libraries = {
        "verl": {"versions": {"verl": "0.9.1"}, "placeholders": ["ray"]},
        "trl": {"versions": {"trl": "1.16.0"}, "placeholders": []},
    }
    return {"inputs": {"even, seed 0": {}}, "libraries": libraries, "not_run": {"slime": "no index"}, "rows": [*rows]}


def test_equal_numbers_agree():
    row = compared(PLAIN, 0.5, [0.1, -0.2])
    assert row["verdict"] == "agrees"
    assert row["defined"]["even, seed 0"]["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "gradient"), [(0.50002, [0.1, -0.2]), (0.5, [0.1, -0.200003]), (float("nan"), [0.1, -0.2])]
)
def test_a_value_or_a_gradient_that_is_off_differs(value, gradient):
    assert compared(PLAIN, value, gradient)["verdict"] == "DIFFERS"


def test_differences_are_those_worked_out_by_hand():
    one = compared(PLAIN, 0.25, [0.1, 0.2])["defined"]["even, seed 0"]
    assert one["value_difference"] == pytest.approx(0.25)
    assert one["gradient_difference"] == pytest.approx(0.4)
    assert one["gradient_difference_relative"] == pytest.approx(2.0)
    assert one["cosine"] == pytest.approx((0.01 - 0.04) / 0.05)


def test_a_stated_difference_agrees_only_once_it_is_undone():
    assert compared(STATED, 0.5, [0.6, 0.0])["verdict"] == "agrees once undone"
    assert compared(STATED, 0.25, [0.3, 0.0])["verdict"] == "DIFFERS"


def test_a_row_that_should_agree_and_does_not_makes_the_bench_fail(capsys):
    good, bad = compared(PLAIN, 0.5, [0.1, -0.2]), compared(PLAIN, 0.6, [0.1, -0.2])
    assert command._report(results(good), options()) == 0
    assert command._report(results(good, bad), options()) == 1
    assert "1 of 2 rows agree" in capsys.readouterr().out


def test_a_library_that_fails_is_a_row_with_the_reason():
    answers = {"verl": Answers(values={}, facts={}, failure="pip could not install verl")}
    found = command.judge(inputs.make(seed=0, num_seeds=1), {}, answers)
    assert {(row["verdict"], row["failure"]) for row in found["rows"]} == {("failed", "pip could not install verl")}
    assert table.num_failing(found) == len(found["rows"]) > 0
    assert "pip could not install verl" in table.markdown(found)


def test_markdown_has_a_line_a_row_with_what_differs():
    text = table.markdown(results(compared(PLAIN, 0.5, [0.1, -0.2]), compared(STATED, 0.5, [0.6, 0.0])))
    lines = text.splitlines()
    assert lines[2] == "| `dapo` | verl | vanilla | 0 | 0 | 1.000000 | agrees |"
    assert lines[3].endswith("| agrees once undone (as defined 2.5e-01): twice ours |")
    assert "verl 0.9.1, TRL 1.16.0" in text
    assert "slime: no index" in text
    assert "verl: ray" in text


@pytest.mark.parametrize("changes", [{"only": "verl,nobody"}, {"seed": -1}, {"out": Path("/no/such/folder/c.json")}])
def test_bad_options_are_user_errors(changes):
    with pytest.raises(UserError, match="got .*, expected .*; "):
        command.run(options(**changes))


def test_every_row_has_ours_and_what_it_is_undone_with():
    known = ours.LOSSES | ours.PARTS
    for row in ROWS:
        assert row.objective in known
        assert not row.undone or row.undone in known
        assert row.library in table.NAMES
    assert len({(row.objective, row.library) for row in ROWS}) == len(ROWS)


def test_inputs_reach_every_bound():
    reached = [inputs.reached(one) for one in inputs.make(seed=0, num_seeds=3).values()]
    for bound in reached[0]:
        assert sum(one[bound] > 0 for one in reached) >= 2, bound


def test_inputs_have_a_masked_row_and_a_one_token_sequence():
    cases = inputs.make(seed=0, num_seeds=1)
    counts = cases["one row masked, seed 0"]["mask"].sum(axis=1)
    assert 0 in counts
    assert 1 in counts
    assert 1 in cases["uneven, seed 0"]["mask"].sum(axis=1)


def test_ours_is_finite_on_every_input():
    for arrays in inputs.make(seed=0, num_seeds=1).values():
        for name in ("grpo", "gspo_plus", "cispo", "sequence_rejection, weighted by sequence", "overlong, no floor"):
            value, gradient = ours.compute(name, arrays)
            assert np.isfinite(value).all()
            assert gradient is None or np.isfinite(gradient).all()


def test_a_placeholder_imports_and_is_no_number(monkeypatch):
    monkeypatch.setattr("sys.meta_path", __import__("sys").meta_path[:])
    placeholders.install(absent=("no_such_cluster",), without_init=())
    import no_such_cluster.util  # pyright: ignore[reportMissingImports]

    assert no_such_cluster.util.remote(len) is len
    with pytest.raises(TypeError):
        no_such_cluster.util.scale * 2.0


def test_the_recorded_table_agrees():
    content = json.loads(BASELINE.read_text())
    assert table.num_failing(content) == 0
    assert len({row["library"] for row in content["rows"]}) == 6
    asked = {(row["objective"], row["library"]) for row in content["rows"]}
    assert asked == {(row.objective, row.library) for row in ROWS}
    for row in content["rows"]:
        told = row.get("undone_differences") or row["defined"]
        if row["verdict"].startswith("agrees"):
            assert all(agrees(one) for one in told.values())


def test_the_table_on_the_page_of_the_benches_is_the_recorded_one():
    text = PAGE.read_text(encoding="utf-8")
    assert replace_block(text, command.BLOCK, table.markdown(json.loads(BASELINE.read_text()))) == text


def test_a_broken_number_in_the_recorded_table_is_seen(capsys):
    content = copy.deepcopy(json.loads(BASELINE.read_text()))
    row = next(row for row in content["rows"] if row["verdict"] == "agrees")
    row["verdict"] = "DIFFERS"
    assert command._report(content, options()) == 1


@pytest.mark.skipif(not PEERS_ENV, reason="NOUSCODER_PEERS_ENV names no environment of the libraries")
@pytest.mark.parametrize("name", [library.name for library in environment.LIBRARIES])
def test_a_library_agrees_when_it_runs(name, tmp_path):
    failures = environment.install(Path(PEERS_ENV))
    cases = inputs.make(seed=7, num_seeds=1)
    files = command.write_inputs(cases, tmp_path)
    library = next(one for one in environment.LIBRARIES if one.name == name)
    assert name not in failures
    found = command.judge(cases, files, {name: environment.ask(library, Path(PEERS_ENV), tmp_path)})
    assert [row for row in found["rows"] if is_failing(row)] == []
