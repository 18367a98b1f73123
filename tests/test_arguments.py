# ruff: noqa: E501  (a case reads better on one line)
"""What is handed to losses and advantages by mistake is an error that names it; in a process without type checks."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from nouscoder_jax.experience.advantages import group_mean_std
from nouscoder_jax.losses import dapo_loss, grpo_loss, supervised_loss

good = {
    "logprobs": jnp.full((2, 4), -1.0), "old_logprobs": jnp.full((2, 4), -1.1), "advantages": jnp.ones((2, 4)),
    "where": jnp.ones((2, 4), bool), "segment_ids": jnp.asarray([[0, 0, 1, 1], [0, 1, 2, 2]]),
}
rewards = {"rewards": np.asarray([1.0, 0.0]), "where": None}
CASES = json.loads(sys.argv[1])
told = {}
for name, (function, change, jitted) in CASES.items():
    changes = {key: eval(value) for key, value in change.items()}
    try:
        if function == "group_mean_std":
            group_mean_std(**(rewards | changes), ddof=1)
        else:
            call = lambda arguments: grpo_loss(**arguments, clip_low=0.2, clip_high=0.2)[0].value()
            (jax.jit(call) if jitted else call)(good | changes)
        told[name] = "nothing"
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
CASES = {
    # name: (function, changes, under jit), what the error says
    "right": (("grpo", {}, False), "nothing"),
    "right, under jit": (("grpo", {}, True), "nothing"),
    "a mask of floats": (("grpo", {"where": "jnp.ones((2, 4))"}, False), "TypeError: where is float32 (2, 4), expected booleans"),
    "a mask of 0 and 255": (("grpo", {"where": "jnp.full((2, 4), 255, 'uint8')"}, True), "TypeError: where is uint8 (2, 4), expected booleans"),
    "segments as the mask": (("grpo", {"where": "good['segment_ids']"}, True), "TypeError: where is int32 (2, 4), expected booleans, 'rows time'; of another mask: mask > 0"),
    "one row of old logprobs": (("grpo", {"old_logprobs": "good['old_logprobs'][:1]"}, True), "ValueError: old_logprobs is float32 (1, 4), expected 'rows time' (2, 4)"),
    "no rows": (("grpo", {"logprobs": "jnp.ones(4)"}, True), "ValueError: logprobs is float32 (4,), expected 'rows time'"),
    "a list": (("grpo", {"logprobs": "[[1.0]]"}, False), "TypeError: logprobs is a list, expected an array of floats"),
    "float segments": (("grpo", {"segment_ids": "jnp.zeros((2, 4))"}, True), "TypeError: segment_ids is float32 (2, 4), expected integers"),
    "a segment in pieces": (("grpo", {"segment_ids": "jnp.asarray([[0, 1, 0, 0]] * 2)"}, False), "ValueError: segment_ids comes back to id 0 in row 0"),
    "an advantage a row, packed": (("grpo", {"advantages": "jnp.ones(2)"}, True), "ValueError: advantages is float32 (2,), one a row, and segment_ids packs"),
    "an advantage a row": (("grpo", {"advantages": "jnp.ones(2)", "segment_ids": "None"}, True), "nothing"),
    "too few advantages": (("grpo", {"advantages": "jnp.ones(3)", "segment_ids": "None"}, True), "ValueError: advantages is float32 (3,), expected 'rows' (2,)"),
    "boolean rewards": (("group_mean_std", {"rewards": "np.asarray([True, False])"}, False), "nothing"),
    "a list of rewards": (("group_mean_std", {"rewards": "[1.0, 0.0]"}, False), "TypeError: rewards is a list, expected an array of numbers or booleans"),
    "a NaN reward": (("group_mean_std", {"rewards": "np.asarray([1.0, np.nan])"}, False), "ValueError: rewards is NaN at (1,), expected numbers"),
    "a NaN that does not count": (("group_mean_std", {"rewards": "np.asarray([1.0, np.nan])", "where": "np.asarray([True, False])"}, False), "nothing"),
    "a mask of ints": (("group_mean_std", {"where": "np.asarray([1, 0])"}, False), "TypeError: where is int64 (2,), expected booleans"),
}  # fmt: skip


@pytest.fixture(scope="module")
def told():
    calls = json.dumps({name: call for name, (call, _) in CASES.items()})
    done = subprocess.run([sys.executable, "-c", SCRIPT, calls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_is_named_with_what_it_is_and_what_is_expected(told, name):
    assert told[name].startswith(CASES[name][1])
