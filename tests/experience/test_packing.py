"""Packing: what goes in comes out, once, in its place."""

import numpy as np
import pytest

from nouscoder_jax.experience.packing import pack, pick_row_tokens

SHAPE = {"row_tokens": 8, "rows_per_micro_batch": 2, "max_experiences": 5, "packed_rows": True, "policy_version": 0}


def test_one_experience_by_hand(make_experience):
    batch, num_micro_batches = pack([make_experience(prompt=(1, 2, 3), completion=(7, 8), advantage=0.5)], **SHAPE)
    assert num_micro_batches == 1 and len(batch.tokens) == 6
    assert batch.tokens[0].tolist() == [1, 2, 3, 7, 8, 0, 0, 0]
    assert batch.targets[0].tolist() == [2, 3, 7, 8, 0, 0, 0, 0]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert batch.segment_ids[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert batch.loss_mask[0].tolist() == [False, False, True, True, False, False, False, False]
    assert batch.behavior_logprobs[0].tolist() == [0, 0, -0.5, -1.5, 0, 0, 0, 0]
    assert batch.advantages[0].tolist() == [0.5] * 5 + [0] * 3
    assert not any(np.any(array[1:]) for array in batch)


def test_every_trainable_token_is_packed_exactly_once(make_experience):
    rng = np.random.default_rng(0)
    experiences = [
        make_experience(
            prompt=rng.integers(1, 99, rng.integers(1, 9)).tolist(),
            completion=rng.integers(1, 99, rng.integers(1, 20)).tolist(),
            advantage=float(i),
        )
        for i in range(40)
    ]
    batch, num_micro_batches = pack(
        experiences, **SHAPE | {"row_tokens": 32, "rows_per_micro_batch": 4, "max_experiences": 64}
    )
    found = {}
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            at = batch.segment_ids[row] == segment
            found[float(batch.advantages[row][at][0])] = (
                tuple(batch.tokens[row][at]),
                tuple(batch.targets[row][at & batch.loss_mask[row]]),
            )
    wanted = {
        e.advantage: (e.rollout.prompt.token_ids + e.rollout.completion.token_ids, e.rollout.completion.token_ids)
        for e in experiences
    }
    assert found == wanted
    used = 4 * num_micro_batches
    assert not batch.loss_mask[used:].any() and batch.loss_mask[used - 4 : used].any()
    assert batch.segment_ids[:used].astype(bool).mean() > 0.8


def test_untrainable_experiences_take_no_space_and_zero_advantages_do(make_experience):
    batch, _ = pack([make_experience(trainable=False), make_experience(advantage=0.0)], **SHAPE)
    assert batch.loss_mask.sum() == 2 and batch.segment_ids.max() == 1


def test_nothing_to_train_on_is_an_empty_batch_of_the_same_shape(make_experience):
    batch, num_micro_batches = pack([make_experience(trainable=False)], **SHAPE)
    assert num_micro_batches == 0 and batch.tokens.shape == (6, 8) and not batch.loss_mask.any()


def test_experiences_that_each_fill_a_row_all_fit(make_experience):
    batch, num_micro_batches = pack([make_experience(completion=(7, 8, 9, 4))] * 5, **SHAPE)
    assert num_micro_batches == 3 and batch.loss_mask.any(axis=1).sum() == 5


def test_packing_twice_gives_the_same_bits(make_experience):
    experiences = [make_experience(completion=range(n), advantage=float(n)) for n in (1, 4, 2, 5, 3)]
    for a, b in zip(pack(experiences, **SHAPE)[0], pack(experiences, **SHAPE)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_row_length_is_the_smallest_of_four_that_holds_the_longest(make_experience):
    lengths = {n: pick_row_tokens([make_experience(completion=range(n))], row_tokens=64) for n in (2, 5, 6, 20, 61)}
    assert lengths == {2: 8, 5: 8, 6: 16, 20: 32, 61: 64}
    with pytest.raises(ValueError, match=r"65 tokens, a row 64; raise experience.row_tokens"):
        pick_row_tokens([make_experience(completion=range(62))], row_tokens=64)
    assert pick_row_tokens([make_experience(completion=range(99), trainable=False)], row_tokens=64) == 8


def test_unpacked_rows_hold_one_sequence_each(make_experience):
    experiences = [make_experience(prompt=(1, 2), completion=(7,) * n) for n in (1, 3, 2)]
    batch, num_micro_batches = pack(experiences, **SHAPE | {"packed_rows": False})
    assert num_micro_batches == 2
    assert batch.segment_ids.sum(1).tolist() == [5, 4, 3, 0, 0, 0] and batch.segment_ids.max() == 1


def test_tokens_drawn_with_the_weights_that_are_trained_are_marked(make_experience):
    def marked(policy_version):
        batch, _ = pack([make_experience()], **SHAPE | {"policy_version": policy_version})
        return batch.on_policy[0].tolist()

    assert marked(0) == [False, False, True, True, False, False, False, False]
    assert not any(marked(1))
