"""`bench.py conformance`: a difference is seen, a stated one adjusted for, and the recorded table agrees."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nouscoder_jax.bench.conformance import command, inputs, ours, table
from nouscoder_jax.bench.conformance.command import Answers
from nouscoder_jax.bench.conformance.compare import agrees, figures
from nouscoder_jax.bench.conformance.libraries import placeholders
from nouscoder_jax.bench.conformance.rows import ROWS, Row
from nouscoder_jax.bench.readme import replace_block
from nouscoder_jax.bench.worker import Worker

BASELINE = Path(__file__).parents[1] / "baselines" / "conformance.json"
PEERS_ENV = os.environ.get("NOUSCODER_PEERS_ENV", "")

PLAIN = Row("dapo", "verl", "vanilla")
STATED = Row("grpo", "trl", "loss_type grpo", "twice ours", "grpo, twice")
NOWHERE = argparse.Namespace(out=None, plot=None, readme=None)

NUMBERS = {
    "dapo": (np.array(0.5, np.float32), np.array([[0.1, -0.2]])),
    "grpo": (np.array(0.25, np.float32), np.array([[0.3, 0.0]])),
    "grpo, twice": (np.array(0.5, np.float32), np.array([[0.6, 0.0]])),
}


def known_numbers(name: str, one: str):
    return NUMBERS[name]


def compared(row: Row, value: float, gradient: list[float]) -> dict:
    theirs = {"even, seed 0": (np.array(value, np.float32), np.array([gradient]))}
    return row._asdict() | figures(row, known_numbers, theirs)


def results(*rows: dict) -> dict:
    libraries = {
        "verl": {"versions": {"verl": "0.9.1"}, "placeholders": ["ray"]},
        "trl": {"versions": {"trl": "1.16.0"}, "placeholders": []},
    }
    return {"inputs": {"even, seed 0": {}}, "libraries": libraries, "not_run": {"slime": "no index"}, "rows": [*rows]}


def test_equal_numbers_agree():
    row = compared(PLAIN, 0.5, [0.1, -0.2])
    assert row["verdict"] == "agrees"
    assert row["defined"]["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "gradient"), [(0.50002, [0.1, -0.2]), (0.5, [0.1, -0.200003]), (float("nan"), [0.1, -0.2])]
)
def test_a_value_or_a_gradient_that_is_off_differs(value, gradient):
    assert compared(PLAIN, value, gradient)["verdict"] == "DIFFERS"


def test_differences_are_those_worked_out_by_hand():
    one = compared(PLAIN, 0.25, [0.1, 0.2])["defined"]
    assert one["value_difference"] == pytest.approx(0.25)
    assert one["gradient_difference"] == pytest.approx(0.4)
    assert one["gradient_difference_relative"] == pytest.approx(2.0)
    assert one["cosine"] == pytest.approx((0.01 - 0.04) / 0.05)


def test_the_worst_input_counts():
    near, far = (
        (np.array(0.5, np.float32), np.array([[0.1, -0.2]])),
        (np.array(0.75, np.float32), np.array([[0.1, 0.2]])),
    )
    row = figures(PLAIN, known_numbers, {"even, seed 0": near, "even, seed 1": far, "even, seed 2": near})
    assert row["verdict"] == "DIFFERS"
    assert row["defined"]["value_difference"] == pytest.approx(0.25)
    assert row["defined"]["cosine"] == pytest.approx((0.01 - 0.04) / 0.05)


def test_a_stated_difference_agrees_only_after_adjusting_for_it():
    assert compared(STATED, 0.5, [0.6, 0.0])["verdict"] == "agrees after adjusting"
    assert compared(STATED, 0.25, [0.3, 0.0])["verdict"] == "DIFFERS"


def test_a_row_that_should_agree_and_does_not_makes_the_bench_fail(capsys):
    good, bad = compared(PLAIN, 0.5, [0.1, -0.2]), compared(PLAIN, 0.6, [0.1, -0.2])
    assert command.finish(results(good), {}, NOWHERE) == 0
    assert command.finish(results(good, bad), {}, NOWHERE) == 1
    assert "1 of 2 rows agree" in capsys.readouterr().out


def test_a_library_that_fails_is_a_row_with_the_reason():
    answers = {"verl": Answers(failure="pip could not install verl")}
    found = command.judge(inputs.make(seed=0, num_seeds=1), answers)
    assert {(row["verdict"], row["failure"]) for row in found["rows"]} == {("failed", "pip could not install verl")}
    assert table.num_failing(found) == len(found["rows"]) > 0
    assert "pip could not install verl" in table.markdown(found)


def test_markdown_has_a_line_a_row_with_what_remains_and_what_was_before():
    text = table.markdown(results(compared(PLAIN, 0.5, [0.1, -0.2]), compared(STATED, 0.5, [0.6, 0.0])))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:4]]
    assert [row[1] for row in cells] == ["verl", "TRL"]
    assert [row[3] for row in cells] == ["0", "0"]
    assert "as defined 2.5e-01" in cells[1][-1] and "as defined" not in cells[0][-1]


def test_every_row_has_ours_and_what_it_is_adjusted_with():
    known = ours.LOSSES | ours.PARTS
    for row in ROWS:
        assert row.objective in known
        assert not row.adjusted or row.adjusted in known
        assert row.library in table.NAMES
    assert len({(row.objective, row.library) for row in ROWS}) == len(ROWS)


def reached(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of counted tokens (of sequences: of rows) where each bound binds; a bound that no token meets tests
    nothing."""
    mask, bounds = arrays["mask"], inputs.SETTINGS
    ratio = np.exp(arrays["logprobs"] - arrays["old_logprobs"])
    drift = np.exp(arrays["old_logprobs"] - arrays["behavior_logprobs"])
    negative = np.broadcast_to(arrays["advantages"][:, None] < 0, mask.shape)
    log_sequence = (np.log(ratio) * mask).sum(1) / np.maximum(mask.sum(1), 1)
    sequence = np.exp(log_sequence)
    tokens = {
        "clip_low": (ratio < 1 - bounds["clip_low"]) & negative,
        "clip_high": (ratio > 1 + bounds["clip_high"]) & ~negative,
        "dual_clip": (ratio > bounds["dual_clip"]) & negative,
        "max_weight": drift > bounds["max_weight"],
        "icepop": (drift < bounds["min_weight"]) | (drift > bounds["icepop_max_weight"]),
    }
    rows = {
        "sequence_clip_low": (sequence < 1 - bounds["sequence_clip_low"]) & negative[:, 0],
        "sequence_clip_high": (sequence > 1 + bounds["sequence_clip_high"]) & ~negative[:, 0],
    }
    shares = {name: float((hit & mask).sum() / mask.sum()) for name, hit in tokens.items()}
    return shares | {name: float(hit.mean()) for name, hit in rows.items()}


def test_inputs_reach_every_bound():
    found = [reached(one) for one in inputs.make(seed=0, num_seeds=3).values()]
    for bound in found[0]:
        assert sum(one[bound] > 0 for one in found) >= 2, bound


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


def test_a_child_answers_with_the_numbers_of_its_functions_and_why_one_has_none(tmp_path):
    cases = inputs.make(seed=0, num_seeds=1)
    inputs.write(cases, tmp_path)
    code = """
import numpy as np
from nouscoder_jax.bench.conformance.libraries.answers import serve
def broken(fields):
    raise ValueError("no such loss")
def mean(fields):
    value = fields["logprobs"].mean(dtype=fields["logprobs"].dtype)
    return value * fields["dual_clip"], np.full_like(fields["logprobs"], 1 / 3)
serve({"broken": broken, "mean": mean}, packages=("numpy",), stand_ins=("ray",), compute=lambda one, f: one(f))"""
    with Worker("one", [sys.executable, "-c", code], tmp_path, {}) as child:
        facts = child.wait_ready()
        name = next(iter(cases))
        answer = child.ask("answer", inputs=f"{name}.npz", precision="float32")
    assert facts["placeholders"] == ["ray"] and facts["precisions"] == ["float32", "float64"]
    assert answer["broken"] == {"failure": "ValueError: no such loss"}
    expected = cases[name]["logprobs"].mean(dtype=np.float32) * inputs.SETTINGS["dual_clip"]
    assert answer["mean"]["value"] == float(expected)
    assert np.float32(answer["mean"]["gradient"][0][0]) == np.float32(1 / 3)


def test_the_recorded_table_agrees_and_has_every_row():
    content = json.loads(BASELINE.read_text())
    assert table.num_failing(content) == 0
    assert {(row["objective"], row["library"]) for row in content["rows"]} == {
        (row.objective, row.library) for row in ROWS
    }
    for row in content["rows"]:
        if row["verdict"].startswith("agrees"):
            assert agrees(row.get("adjusted_differences") or row["defined"])


def test_the_table_on_the_page_of_the_benches_is_the_recorded_one(root):
    text = (root / "nouscoder_jax/bench/README.md").read_text(encoding="utf-8")
    assert replace_block(text, command.BLOCK, table.markdown(json.loads(BASELINE.read_text()))) == text


def test_a_row_that_differs_in_the_recorded_table_makes_the_bench_fail():
    content = json.loads(BASELINE.read_text())
    row = next(row for row in content["rows"] if row["verdict"] == "agrees")
    row["verdict"] = "DIFFERS"
    assert command.finish(content, {}, NOWHERE) == 1


@pytest.mark.skipif(not PEERS_ENV, reason="NOUSCODER_PEERS_ENV names no environment of the libraries")
@pytest.mark.parametrize("name", command.LIBRARIES)
def test_a_library_agrees_when_it_runs(name, tmp_path):
    cases = inputs.make(seed=7, num_seeds=1)
    inputs.write(cases, tmp_path)
    found = command.judge(cases, {name: command.ask(name, Path(PEERS_ENV), tmp_path)})
    assert found["rows"] and table.num_failing(found) == 0
