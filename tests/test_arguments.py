# ruff: noqa: E501  (a case reads better on one line)
"""What is handed to losses, corrections and advantages by mistake is an error that names it, and under jit costs nothing.

In processes of their own: here jaxtyping would refuse such arguments before our functions see them.
"""

import json
import subprocess
import sys

import pytest

SETTING = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from nouscoder_jax import losses, mismatch
from nouscoder_jax.experience import advantages

clip = {"clip_low": 0.2, "clip_high": 0.2}
some = {name: jnp.full((2, 4), value) for name, value in {
    "logprobs": -1.0, "old_logprobs": -1.1, "behavior_logprobs": -1.2, "proximal_logprobs": -1.3,
    "reference_logprobs": -1.4, "values": 0.5, "advantages": 1.0, "importance_weights": 0.9, "entropy": 0.3}.items()}
some |= {"where": jnp.asarray([[True] * 4, [False, True, True, True]]), "rewards": jnp.asarray([1.0, 0.0, 0.0, 1.0])}
some |= {"segment_ids": jnp.asarray([[0, 0, 1, 1], [0, 1, 2, 2]])}
of_loss = ["logprobs", "old_logprobs", "advantages", "where", "segment_ids", "importance_weights", "entropy"]
of_engine = ["old_logprobs", "behavior_logprobs", "where"]
FUNCTIONS = {f"{name}_loss": (getattr(losses, f"{name}_loss"), of_loss, clip) for name in ("grpo", "dapo", "gspo", "gspo_plus", "cispo")}
FUNCTIONS |= {
    "dr_grpo_loss": (losses.dr_grpo_loss, of_loss, clip | {"normalizer_tokens": 4.0}),
    "supervised_loss": (losses.supervised_loss, ["logprobs", "where"], {}),
    "token_mean": (losses.token_mean, ["values", "where"], {}),
    "sequence_mean": (losses.sequence_mean, ["values", "where", "segment_ids"], {}),
    "token_log_ratio": (losses.token_log_ratio, ["logprobs", "old_logprobs", "where"], {}),
    "sequence_log_ratio": (losses.sequence_log_ratio, ["logprobs", "old_logprobs", "where", "segment_ids"], {}),
    "k3_kl": (losses.k3_kl, ["logprobs", "reference_logprobs", "where"], {}),
    "truncated_weights": (mismatch.truncated_weights, of_engine, {"max_weight": 2.0}),
    "icepop_weights": (mismatch.icepop_weights, of_engine, {"min_weight": 0.5, "max_weight": 5.0}),
    "sequence_rejection_mask": (mismatch.sequence_rejection_mask, [*of_engine, "segment_ids"], {"min_ratio": 0.9, "max_ratio": 1.1}),
    "decoupled_weights": (mismatch.decoupled_weights, ["proximal_logprobs", "behavior_logprobs", "where"], {}),
    "drift_metrics": (mismatch.drift_metrics, ["logprobs", "behavior_logprobs", "where"], {}),
    "largest_drift": (mismatch.largest_drift, ["logprobs", "behavior_logprobs", "where"], {}),
}
FUNCTIONS |= {name: (function, ["rewards"], {"ddof": 1}) for name, function in advantages.ADVANTAGES.items()}
POSITIONAL = ("logprobs", "old_logprobs", "proximal_logprobs", "reference_logprobs", "behavior_logprobs", "values", "advantages", "rewards")

def call(name, arrays):
    function, _, settings = FUNCTIONS[name]
    positional = [arrays[key] for key in POSITIONAL if key in arrays]
    return function(*positional, **{key: array for key, array in arrays.items() if key not in POSITIONAL}, **settings)

def right(name):
    return {key: some[key] for key in FUNCTIONS[name][1]}
"""
TELL = """
told = {}
for case, (name, changes, jitted) in json.loads(sys.argv[1]).items():
    arrays = right(name) | {key: eval(value) for key, value in changes.items()}
    try:
        (jax.jit(functools.partial(call, name)) if jitted else functools.partial(call, name))(arrays)
        told[case] = "nothing"
    except Exception as error:
        told[case] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
ALL = """
told = {}
for name in FUNCTIONS:
    for argument in right(name):
        for kind, wrong in {"list": [0.5], "kind": some[argument].astype(complex), "shape": jnp.concatenate([some[argument]] * 2)[None]}.items():
            if (argument, kind) == ("rewards", "shape"):  # any number of groups
                continue
            try:
                call(name, right(name) | {argument: wrong})
                told[f"{name} {argument} {kind}"] = "nothing"
            except Exception as error:
                told[f"{name} {argument} {kind}"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
LOWER = """
def programs():
    jax.clear_caches()
    return {name: (str(jax.make_jaxpr(functools.partial(call, name))(right(name))),
                   jax.jit(functools.partial(call, name)).lower(right(name)).as_text()) for name in FUNCTIONS}

checked, calls = programs(), []
for module, name in ((losses, "check"), (losses, "check_tokens"), (mismatch, "check_tokens"), (advantages, "check")):
    assert callable(getattr(module, name))
    setattr(module, name, lambda *args, **kwargs: calls.append(args))
advantages.has_values = lambda *arrays: False
unchecked = programs()
assert len(calls) > len(FUNCTIONS)
print(json.dumps([name for name in FUNCTIONS if checked[name] != unchecked[name]]))
"""
CASES = {
    # name: (function, changes, under jit), how the error begins
    "a mask of floats": (("grpo_loss", {"where": "jnp.ones((2, 4))"}, True), "TypeError: where is float32 (2, 4), expected booleans, 'rows time'; of a mask of numbers: mask > 0"),
    "a mask of 0 and 2": (("dapo_loss", {"where": "jnp.full((2, 4), 2)"}, False), "TypeError: where is int32 (2, 4), expected booleans"),
    "a mask of 0 and 255": (("gspo_loss", {"where": "jnp.full((2, 4), 255, 'uint8')"}, True), "TypeError: where is uint8 (2, 4), expected booleans"),
    "segments as the mask": (("cispo_loss", {"where": "some['segment_ids']"}, True), "TypeError: where is int32 (2, 4), expected booleans"),
    "a mask of floats of a warm start": (("supervised_loss", {"where": "jnp.ones((2, 4))"}, True), "TypeError: where is float32 (2, 4), expected booleans"),
    "a mask of one row": (("grpo_loss", {"where": "some['where'][:1]"}, True), "ValueError: where is bool (1, 4), expected 'rows time' (2, 4), the shape of logprobs"),
    "no mask": (("grpo_loss", {"where": "None"}, True), "nothing"),
    "no mask for a correction": (("icepop_weights", {"where": "None"}, True), "TypeError: where is a NoneType, expected an array of booleans, 'rows time'; to count all: np.ones(shape, bool)"),
    "one row of old logprobs": (("gspo_plus_loss", {"old_logprobs": "some['old_logprobs'][:1]"}, True), "ValueError: old_logprobs is float32 (1, 4), expected 'rows time' (2, 4), the shape of logprobs; give each place its own value"),
    "one row of behavior logprobs": (("truncated_weights", {"behavior_logprobs": "some['behavior_logprobs'][:1]"}, True), "ValueError: behavior_logprobs is float32 (1, 4), expected 'rows time' (2, 4), the shape of old_logprobs"),
    "one weight a row": (("grpo_loss", {"importance_weights": "jnp.ones((2, 1))"}, True), "ValueError: importance_weights is float32 (2, 1), expected 'rows time' (2, 4)"),
    "no rows": (("grpo_loss", {"logprobs": "jnp.ones(4)"}, True), "ValueError: logprobs is float32 (4,), expected 'rows time'; of one row: logprobs[None]"),
    "all of one axis": (("dapo_loss", {name: f"some['{name}'][0]" for name in ("logprobs", "old_logprobs", "advantages", "where")}, False), "ValueError: logprobs is float32 (4,), expected 'rows time'; of one row: logprobs[None]"),
    "a list": (("grpo_loss", {"logprobs": "[[1.0]]"}, False), "TypeError: logprobs is a list, expected an array of floats, 'rows time'; of a sequence: np.asarray(logprobs)"),
    "tokens for logprobs": (("grpo_loss", {"logprobs": "jnp.ones((2, 4), int)"}, True), "TypeError: logprobs is int32 (2, 4), expected floats, 'rows time'; of other numbers: logprobs.astype('float32')"),
    "NumPy's and half a precision": (("grpo_loss", {"logprobs": "jnp.ones((2, 4), 'bfloat16')", "old_logprobs": "np.ones((2, 4), 'float16')", "where": "np.ones((2, 4), bool)"}, False), "nothing"),
    "float segments": (("gspo_loss", {"segment_ids": "jnp.zeros((2, 4))"}, True), "TypeError: segment_ids is float32 (2, 4), expected integers, 'rows time'; of whole numbers: segment_ids.astype('int32')"),
    "a segment in pieces": (("grpo_loss", {"segment_ids": "jnp.asarray([[0, 1, 1, 1], [0, 3, 0, 3]])"}, False), "ValueError: segment_ids comes back to id 3 in row 1, expected each sequence in one piece; sort the row's tokens by id"),
    "a segment in pieces, without a mask": (("dapo_loss", {"segment_ids": "jnp.asarray([[0, 1, 1, 1], [0, 3, 0, 2]])", "where": "None"}, False), "ValueError: segment_ids comes back to id 0 in row 1"),
    "a rejected segment in pieces": (("sequence_rejection_mask", {"segment_ids": "jnp.asarray([[0, 1, 0, 0]] * 2)"}, False), "ValueError: segment_ids comes back to id 0 in row 0"),
    "padding in pieces": (("grpo_loss", {"segment_ids": "jnp.asarray([[1, 0, 2, 0]] * 2, 'uint8')", "where": "jnp.asarray([[True, False] * 2] * 2)"}, False), "nothing"),
    "segments under jit": (("grpo_loss", {"segment_ids": "jnp.asarray([[0, 1, 0, 0]] * 2)"}, True), "nothing"),
    "an advantage a row, packed": (("grpo_loss", {"advantages": "jnp.ones(2)"}, True), "ValueError: advantages is float32 (2,), but segment_ids packs several sequences into a row; expected 'rows time' (2, 4), at every token"),
    "an advantage a row": (("grpo_loss", {"advantages": "jnp.ones(2)", "segment_ids": "None"}, True), "nothing"),
    "too few advantages": (("grpo_loss", {"advantages": "jnp.ones(3)", "segment_ids": "None"}, True), "ValueError: advantages is float32 (3,), expected 'rows' (2,), the shape of logprobs' rows"),
    "boolean advantages": (("grpo_loss", {"advantages": "jnp.ones((2, 4), bool)"}, True), "TypeError: advantages is bool (2, 4), expected floats"),
    "boolean rewards": (("group_mean_std", {"rewards": "np.asarray([True, False])"}, False), "nothing"),
    "a list of rewards": (("group_mean_std", {"rewards": "[True, False]"}, False), "TypeError: rewards is a list, expected an array of numbers or booleans, 'group'; of a sequence: np.asarray(rewards)"),
    "a reward": (("group_mean_std", {"rewards": "np.float32(1.0)"}, False), "ValueError: rewards is float32 (), expected 'group'; of one row: rewards[None]"),
    "a NaN reward": (("group_mean_std", {"rewards": "np.asarray([[1.0, 0.0], [1.0, np.nan]])"}, False), "ValueError: rewards has nan at (1, 1), expected finite numbers; a reward that was not given is left out by where"),
    "an infinite reward": (("leave_one_out", {"rewards": "jnp.asarray([-jnp.inf, 1.0])"}, False), "ValueError: rewards has -inf at (0,), expected finite numbers"),
    "a NaN reward among counted ones": (("group_mean_std", {"rewards": "np.asarray([1.0, np.nan])", "where": "np.asarray([False, True])"}, False), "ValueError: rewards has nan at (1,)"),
    "a NaN that does not count": (("group_mean_std", {"rewards": "np.asarray([1.0, np.nan])", "where": "np.asarray([True, False])"}, False), "nothing"),
    "a mask of rewards of ints": (("group_mean", {"rewards": "np.ones(2)", "where": "np.asarray([1, 0])"}, False), "TypeError: where is int64 (2,), expected booleans, 'group'"),
    "a mask of one group of several": (("group_mean", {"rewards": "np.ones((3, 2))", "where": "np.ones(2, bool)"}, False), "ValueError: where is bool (2,), expected '... group' (3, 2), the shape of rewards"),
}  # fmt: skip


def run(program: str, *arguments: str):
    done = subprocess.run(
        [sys.executable, "-c", SETTING + program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told():
    return run(TELL, json.dumps({name: call for name, (call, _) in CASES.items()}))


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_is_named_with_what_it_is_what_is_expected_and_the_fix(told, name):
    assert told[name].startswith(CASES[name][1])


def test_every_function_names_each_of_its_arrays():
    """As a list, of complex numbers, with an axis too many."""
    told = run(ALL)
    assert len(told) > 200
    for case, message in told.items():
        _, argument, kind = case.split()
        got = {"list": "TypeError: {} is a list", "kind": "TypeError: {} is complex64", "shape": "ValueError: {} is "}
        assert message.startswith(got[kind].format(argument)), (case, message)
        assert ", expected " in message, (case, message)


def test_a_compiled_function_is_the_same_with_and_without_checks():
    assert run(LOWER) == []
