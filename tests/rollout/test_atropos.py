"""What a scored group says, in both directions."""

import dataclasses

import numpy as np
import pytest

from nouscoder_jax.experience.packing import pack
from nouscoder_jax.rollout.atropos import GroupRules, MalformedGroupError, read_group, scored_data, unused_fields
from nouscoder_jax.types import UNKNOWN_VERSION, Completion, Experience, Prompt, Rollout

RULES = GroupRules(group_size=2, vocab_size=64, max_tokens=8, temperature=1.0, needs_logprobs=True)


def group(**changes):
    """Two sequences; the second speaks twice, with one token of the environment between."""
    return {
        "tokens": [[3, 4, 9, 1], [3, 4, 7, 5, 8, 1]],
        "masks": [[-100, -100, 9, 1], [-100, -100, 7, -100, 8, 1]],
        "scores": [1.0, -1.0],
        "inference_logprobs": [[1.0, 1.0, -0.5, -0.25], [1.0, 1.0, -0.5, 1.0, -2.0, -0.125]],
        "env_id": 3,
    } | changes


def test_prompt_completion_and_what_the_policy_wrote_come_out_of_masks():
    first, second = read_group(group(), RULES)
    assert (first.prompt_ids, first.token_ids, first.loss_mask) == ((3, 4), (9, 1), (True, True))
    assert (second.prompt_ids, second.token_ids) == ((3, 4), (7, 5, 8, 1))
    assert second.loss_mask == (True, False, True, True) and second.logprobs == (-0.5, 0.0, -2.0, -0.125)
    assert (first.score, second.score) == (1.0, -1.0)
    assert first.policy_version == UNKNOWN_VERSION


def test_what_the_environment_says_after_the_last_turn_is_left_out():
    one = group(
        tokens=[[3, 4, 9, 1], [3, 4, 7, 5]],
        masks=[[-100, -100, 9, -100], [-100, -100, 7, 5]],
        inference_logprobs=[[1.0, 1.0, -0.5, 1.0], [1.0, 1.0, -0.5, -0.5]],
    )
    assert read_group(one, RULES)[0].token_ids == (9,)


def test_a_group_that_trains_from_its_first_token_keeps_that_one_as_its_prompt():
    one = group(masks=[[3, 4, 9, 1], [3, 4, 7, 5, 8, 1]], inference_logprobs=[[-1.0] * 4, [-1.0] * 6])
    assert read_group(one, RULES)[0].prompt_ids == (3,)


def test_advantages_set_to_zero_temperatures_and_versions_are_read():
    params = {"temperature": 1.0, "policy_version": [4, 5]}
    first, second = read_group(group(overrides=[{"set_advantage_to_zero": True}, {}], generation_params=params), RULES)
    assert (first.zero_advantage, second.zero_advantage) == (True, False)
    assert (first.policy_version, second.policy_version) == (4, 5)


def test_without_logprobs_a_version_means_nothing():
    """Tokens count as on-policy only where the logprobs that they were drawn with are there to compare."""
    rules = dataclasses.replace(RULES, needs_logprobs=False)
    one = group(inference_logprobs=None, generation_params={"policy_version": [4, 4]})
    assert {sequence.policy_version for sequence in read_group(one, rules)} == {UNKNOWN_VERSION}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": [[3, 4, 9, 1]]}, "has 1 sequences, rollout.group_size is 2"),
        ({"tokens": None}, "has tokens None"),
        ({"masks": [[-100, -100, 9, 1]]}, "2 sequences and 1 masks"),
        ({"scores": [1.0]}, "2 sequences and 1 scores"),
        ({"scores": [1.0, float("nan")]}, "sequence 1 has score nan"),
        ({"scores": [1.0, None]}, "sequence 1 has score None"),
        ({"inference_logprobs": None}, "has no inference_logprobs"),
        ({"inference_logprobs": [[1.0] * 4]}, "2 sequences and 1 inference_logprobs"),
        ({"inference_logprobs": [[1.0, 1.0, -0.5], [1.0] * 6]}, "4 tokens, 4 masks and 3 inference_logprobs"),
        ({"inference_logprobs": [[1.0] * 4, [1.0] * 6]}, "has inference_logprob 1.0 at token 2"),
        ({"masks": [[-100, -100, 1, 1], [-100] * 5 + [1]]}, "has mask 1 at token 9"),
        ({"masks": [[-100] * 4, [-100] * 5 + [1]]}, "has no token that the policy wrote"),
        ({"tokens": [[3, 4, 64, 1], [3, 4, 7, 5, 8, 1]]}, "the model knows 0 to 63"),
        ({"tokens": [[3, 4, 9, 1], list(range(9))]}, "1 to 8 are taken"),
        ({"images": ["x"]}, "has images"),
        ({"generation_params": {"temperature": 0.6}}, "sampled at temperature 0.6, rollout.temperature is 1.0"),
        ({"overrides": [{}, {"temperature": 0.6}]}, "sequence 1 was sampled at temperature 0.6"),
        ({"overrides": [{}]}, "2 sequences and 1 overrides"),
    ],
)
def test_a_malformed_group_is_refused_by_name(changes, said):
    one = group(**changes)
    if said.startswith("1 to 8"):
        one |= {
            "masks": [one["masks"][0], list(range(9))],
            "inference_logprobs": [one["inference_logprobs"][0], [-1.0] * 9],
        }
    with pytest.raises(MalformedGroupError, match="Atropos: group of environment 3") as refused:
        read_group(one, RULES)
    assert said in str(refused.value)


def test_fields_that_are_not_used_are_named():
    assert unused_fields(group(advantages=[[1.0]], ref_logprobs=None)) == ["advantages"]


def experience(index: int, *, reward: float | None, finish_reason="stop") -> Experience:
    completion = Completion(
        token_ids=(9, 1), behavior_logprobs=(-0.5, -0.25), finish_reason=finish_reason, policy_version=index
    )
    rollout = Rollout(
        group_id=0, sample_index=index, prompt=Prompt(problem_id="p", token_ids=(3, 4)), completion=completion,
        text="", program=None,
    )  # fmt: skip
    return Experience(rollout=rollout, verdict=None, reward=reward, advantage=0.0, trainable=True)


def test_a_judged_group_comes_back_as_it_was():
    sent = scored_data(
        [experience(0, reward=1.0), experience(1, reward=-1.0, finish_reason="length")],
        env_id=3, temperature=1.0, zero_when_cut=True, knows_version=True,
    )  # fmt: skip
    first, second = read_group(sent, RULES)
    assert (first.prompt_ids, first.token_ids, first.logprobs, first.score) == ((3, 4), (9, 1), (-0.5, -0.25), 1.0)
    assert (first.zero_advantage, second.zero_advantage) == (False, True)
    assert (first.policy_version, second.policy_version) == (0, 1)


def test_a_failure_of_the_judge_is_never_a_score():
    with pytest.raises(ValueError, match="no score"):
        scored_data(
            [experience(0, reward=1.0), experience(1, reward=None)],
            env_id=3, temperature=1.0, zero_when_cut=True, knows_version=True,
        )  # fmt: skip


def test_tokens_of_the_environment_are_read_and_not_trained_on():
    sequence = read_group(group(), RULES)[1]
    completion = Completion(
        token_ids=sequence.token_ids, behavior_logprobs=sequence.logprobs, finish_reason="stop", policy_version=4,
        loss_mask=sequence.loss_mask,
    )  # fmt: skip
    rollout = Rollout(
        group_id=0, sample_index=0, prompt=Prompt(problem_id="p", token_ids=sequence.prompt_ids),
        completion=completion, text="", program=None, score=-1.0,
    )  # fmt: skip
    one = Experience(rollout=rollout, verdict=None, reward=-1.0, advantage=0.5, trainable=True)
    batch, _ = pack([one], row_tokens=8, rows_per_micro_batch=1, max_experiences=1, packed_rows=True, policy_version=4)
    trained = np.asarray(batch.loss_mask[0])
    assert np.asarray(batch.targets[0])[trained].tolist() == [7, 8, 1]
    assert np.asarray(batch.behavior_logprobs[0])[trained].tolist() == [-0.5, -2.0, -0.125]
    assert np.asarray(batch.tokens[0])[:6].tolist() == [3, 4, 7, 5, 8, 1]
