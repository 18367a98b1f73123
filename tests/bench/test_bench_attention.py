"""`bench.py attention`: what it counts is right, turns are fair, and without a GPU it says so and still measures."""

import argparse
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest

from nouscoder_jax.bench.kernels import attention
from nouscoder_jax.bench.kernels.attention import Contender, Result
from nouscoder_jax.config import UserError


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    attention.add_options(parser)
    return attention.run(parser.parse_args(arguments))


def make_result(name: str, speeds: list[float], workload: str = "unpacked 64") -> Result:
    return Result(name=name, workload=workload, tokens=64, tflop=1.0, tflop_per_s=speeds)


def make_contender(name: str, function) -> Contender:
    ids = np.ones((1, 8), np.int32)
    return Contender(name=name, workload="unpacked 8", dtype=jnp.float32, segment_ids=ids, attention=function)


def test_pairs_are_those_that_the_mask_leaves():
    assert attention.seen_pairs(np.array([[1, 1, 2, 2, 2], [0, 0, 0, 0, 0]])) == 3 + 6 + 15


def test_a_packed_row_is_the_same_every_time_full_and_long_tailed():
    ids = attention.long_tailed_segments(4096)
    np.testing.assert_array_equal(ids, attention.long_tailed_segments(4096))
    lengths = np.bincount(ids[0])[1:]
    assert ids.min() == 1 and lengths.sum() == 4096 and lengths.max() > 3 * np.median(lengths)


def test_a_ratio_compares_within_a_round_and_a_workload():
    results = [make_result("cudnn", [20.0, 30.0]), make_result("pallas", [10.0, 60.0])]
    other = make_result("pallas", [5.0], "packed 64")
    assert attention.ratios(results[1], [other, *results]) == [0.5, 2.0]


def test_the_target_is_the_median_against_cudnn_and_a_missing_one_is_neither_met_nor_missed():
    met = attention.report([make_result("cudnn", [10.0] * 3), make_result("pallas", [1.0, 9.5, 20.0])], {}).targets
    unknown = attention.report([make_result("cudnn", []), make_result("pallas", [9.0])], {}).targets
    assert [(one.got, one.met) for one in (*met, *unknown)] == [(0.95, True), (None, None)]


def test_what_cannot_run_is_skipped_with_its_reason_and_the_others_go_on():
    def broken(*_):
        raise ValueError("no such\nthing")

    def works(queries, keys, values, segment_ids):
        return queries

    results = attention.measure(
        [make_contender("broken", broken), make_contender("works", works)],
        heads=1, kv_heads=1, head_dim=8, rounds=2, until=time.monotonic() + 60,
    )  # fmt: skip
    assert [(one.skipped, len(one.tflop_per_s)) for one in results] == [("no such thing", 0), ("", 2)]


def test_no_round_but_the_first_starts_after_the_limit():
    one = make_contender("one", lambda queries, keys, values, segment_ids: queries)
    [result] = attention.measure([one], heads=1, kv_heads=1, head_dim=8, rounds=9, until=time.monotonic())
    assert len(result.tflop_per_s) == 1


def test_without_a_gpu_it_says_so_and_measures_the_plain_implementations(tmp_path, capsys):
    out = tmp_path / "attention.json"
    assert bench("--tokens", "64,32", "--quick", "--head-dim", "16", "--out", str(out)) == 0
    assert "no GPU" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert {(one["name"], one["workload"]) for one in content["results"]} == {
        (name, f"{workload} 32") for name in ("reference", "masked") for workload in ("unpacked", "packed")
    }
    assert all(one["median_tflop_per_s"] > 0 and not one["skipped"] for one in content["results"])
    assert "targets" not in content and "no GPU" in content["device"]
    assert {"date", "commit", "hardware", "versions", "settings"} <= set(content)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--heads", "5", "--kv-heads", "2"], "--heads is 5; use a multiple of --kv-heads, 2"),
        (["--tokens", "8k"], "--tokens got 8k; use whole numbers from 1 on"),
        (["--out", "/does/not/exist/attention.json"], "make it first"),
    ],
)
def test_a_mistake_costs_one_line(arguments, said):
    with pytest.raises(UserError, match=said) as error:
        bench(*arguments)
    assert "\n" not in str(error.value)
