"""`bench.py logprobs`: implementations compute the same, turns are fair, targets are judged by what was measured."""

import argparse
import json
import time

import jax
import numpy as np
import pytest

from nouscoder_jax.bench.in_turn import Timed
from nouscoder_jax.bench.kernels import logprobs
from nouscoder_jax.bench.kernels.logprobs_memory import Memory, Sizes, with_gradients
from nouscoder_jax.config import UserError

SIZES = Sizes(num_tokens=256, vocab=2048, embed=16, hidden_dtype="float32", weight_dtype="float32")


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    logprobs.add_options(parser)
    return logprobs.run(parser.parse_args(arguments))


def test_all_implementations_give_the_same_values_and_gradients():
    functions = logprobs.contenders([1, 64], pallas=False)
    arrays = logprobs._arrays(SIZES)
    expected, *others = [jax.jit(with_gradients(function))(*arrays) for function in functions.values()]
    for got in others:
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_every_implementation_has_as_many_rounds_and_one_that_fails_is_skipped_with_its_reason():
    def broken(*_):
        raise ValueError("no such\nthing")

    functions = {"plain": logprobs.plain, "broken": broken}
    results = logprobs.measure(functions, SIZES, rounds=2, until=time.monotonic() + 60)
    assert [(len(one.wall_s), len(one.cpu_s), one.skipped) for one in results] == [(2, 2, ""), (0, 0, "no such thing")]


def test_a_ratio_compares_within_a_round():
    results = [Timed(name="plain", wall_s=[1.0, 4.0]), Timed(name="chunked 1 MiB", wall_s=[2.0, 2.0])]
    assert logprobs.ratios(results[1], results, "wall_s") == [2.0, 0.5]


def test_targets_are_met_by_medians_and_by_programs_without_all_logits():
    results = [Timed(name="plain", cpu_s=[1.0] * 3), Timed(name="chunked 1 MiB", cpu_s=[1.1, 1.3, 1.0])]
    memory = [
        Memory(gpu="h100", temp_bytes=150 << 20, all_logits=[]),
        Memory(gpu="h100", temp_bytes=(150 << 20) + 2**20, all_logits=[]),
        Memory(gpu="b200", temp_bytes=1, all_logits=["f32[1024,151936]"]),
    ]
    targets = logprobs.report(results, memory, {}, on_gpu=False).targets
    assert [target.met for target in targets] == [True, True, True, False, True, True, False]


def test_what_was_not_measured_is_neither_met_nor_missed():
    results = [Timed(name="plain", skipped="why"), Timed(name="chunked 1 MiB", cpu_s=[1.0])]
    assert [target.met for target in logprobs.report(results, [], {}, on_gpu=False).targets] == [None]


def test_a_quick_run_writes_every_round(tmp_path, capsys):
    assert bench("--quick", "--no-memory", "--out", str(tmp_path / "out.json")) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(one["name"], len(one["wall_s"])) for one in written["results"]] == [("plain", 1), ("chunked 1 MiB", 1)]
    assert "chunked 1 MiB: 2 chunks of 1024 words, logits of 0 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--logits-mib", "64,x"], "--logits-mib got x; use whole numbers from 1 on"),
        (["--out", "no/such/folder/x.json"], "its folder does not exist"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(arguments, told):
    with pytest.raises(UserError, match=told):
        bench(*arguments)
