"""Processes share the problems without overlap, in an order that a seed fixes and a state restores."""

import json

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.data.pipeline import problem_stream


def stream(num_problems=10, *, seed=0, process_index=0, num_processes=1):
    return problem_stream(num_problems, seed=seed, process_index=process_index, num_processes=num_processes)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("num_problems", [12, 13])
def test_shares_of_an_epoch_are_disjoint_and_complete(num_problems):
    shares = [take(stream(num_problems, process_index=p, num_processes=3), num_problems // 3) for p in range(3)]
    if num_problems == 13:  # the first share is one longer
        shares[0] = take(stream(13, process_index=0, num_processes=3), 5)
    assert sorted(sum(shares, [])) == list(range(num_problems))


def test_every_epoch_shows_each_problem_once_in_another_order():
    iterator = stream()
    first, second = take(iterator, 10), take(iterator, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_shares_of_a_later_epoch_are_disjoint_too():
    streams = [stream(12, process_index=p, num_processes=3) for p in range(3)]
    for iterator in streams:
        take(iterator, 4)
    assert sorted(sum((take(iterator, 4) for iterator in streams), [])) == list(range(12))


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    assert take(stream(seed=1), 30) == take(stream(seed=1), 30)
    assert take(stream(seed=1), 30) != take(stream(seed=2), 30)


@pytest.mark.parametrize("position", [0, 1, 9, 10, 25])
def test_a_state_restores_exactly_through_json(position):
    iterator = stream(process_index=1, num_processes=2)
    take(iterator, position)
    state = json.dumps(iterator.get_state())
    expected = take(iterator, 15)
    restored = stream(process_index=1, num_processes=2)
    take(restored, 3)
    restored.set_state(json.loads(state))
    assert take(restored, 15) == expected


def test_one_problem_repeats_for_ever():
    assert take(stream(1), 5) == [0] * 5


def test_fewer_problems_than_processes_is_a_user_error():
    with pytest.raises(UserError, match="got 2 problems for 3 processes"):
        stream(2, num_processes=3)
