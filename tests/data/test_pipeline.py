"""Problems come in an order that a seed fixes and a state restores."""

import json

import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.data.pipeline import problem_stream


def stream(num_problems=10, *, seed=0):
    return problem_stream(num_problems, seed=seed)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_every_epoch_shows_each_problem_once_in_another_order():
    iterator = stream()
    first, second = take(iterator, 10), take(iterator, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    assert take(stream(seed=1), 30) == take(stream(seed=1), 30)
    assert take(stream(seed=1), 30) != take(stream(seed=2), 30)


@pytest.mark.parametrize("position", [0, 1, 9, 10, 25])
def test_a_state_restores_exactly_through_json(position):
    iterator = stream()
    take(iterator, position)
    state = json.dumps(iterator.get_state())
    expected = take(iterator, 15)
    restored = stream()
    take(restored, 3)
    restored.set_state(json.loads(state))
    assert take(restored, 15) == expected


def test_one_problem_repeats_for_ever():
    assert take(stream(1), 5) == [0] * 5


def test_no_problems_are_a_user_error():
    with pytest.raises(UserError, match="got no problems"):
        stream(0)
