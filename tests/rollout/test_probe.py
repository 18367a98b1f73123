"""Two sets of logprobs of the same tokens are compared, and who is over a bound is named."""

import math

import pytest

from nouscoder_jax.rollout.probe import NUM_SEQUENCES, NUM_TOKENS, Drift, Probe, pick_sequences
from nouscoder_jax.types import DriftError, Prompt

OURS = ((-1.0, -2.0), (-3.0,))


def probe(*, max_mean=0.0, max_largest=0.0):
    return Probe(
        sequences=((1, 2, 3), (4, 5)), logprobs=OURS, policy_version=7, max_mean=max_mean, max_largest=max_largest
    )


def test_the_differences_are_over_all_tokens():
    drift = probe().compare(((-1.5, -2.0), (-2.9,)), who="it")
    assert drift == pytest.approx(Drift(mean=0.2, largest=0.5))
    assert probe(max_mean=1e-9, max_largest=1e-9).compare(OURS, who="it") == Drift(mean=0.0, largest=0.0)


@pytest.mark.parametrize("bounds", [{"max_mean": 0.1}, {"max_largest": 0.4}])
def test_who_is_over_a_bound_is_named_with_the_version(bounds):
    with pytest.raises(DriftError, match=r"^server x and .* version 7.* 0.2 nats on average .* 0.5 at .*sequence 0"):
        probe(**bounds).compare(((-1.5, -2.0), (-2.9,)), who="server x")


def test_what_is_not_a_number_is_over_every_bound():
    with pytest.raises(DriftError, match="most in sequence 1"):
        probe().compare(((-1.0, -2.0), (math.nan,)), who="it")


def test_sequences_are_the_beginnings_of_the_first_prompts():
    prompts = [Prompt(problem_id=str(number), token_ids=(number,) * (1 + 100 * number)) for number in range(20)]
    picked = pick_sequences(prompts)
    assert len(picked) == NUM_SEQUENCES and picked[0] == (1,) * 101 and max(map(len, picked)) == NUM_TOKENS
