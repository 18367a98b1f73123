"""Orders reach every hand and their outcome comes back, whatever becomes of a hand. No devices are needed for that."""

import contextlib
import queue
import threading
import time
from multiprocessing.connection import Client, Listener, Pipe

import numpy as np
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.training import hands
from nouscoder_jax.training.hands import Crew, Message, _Hand, receive, send
from nouscoder_jax.types import ProcessLostError


class Line:
    """Both ends of a connection: the head's hand, and what that process does."""

    def __init__(self, process: int) -> None:
        with Listener(("127.0.0.1", 0), authkey=b"key") as listener:
            called = queue.SimpleQueue()
            threading.Thread(target=lambda: called.put(listener.accept()), daemon=True).start()
            self.far = Client(listener.address, authkey=b"key")
            self.hand = _Hand(process, f"machine{process}", called.get(timeout=10))
        self.orders = []

    def answers(self, **fields):
        """Carries one order out, with these fields in its reply."""
        order = receive(self.far)
        self.orders.append(order)
        send(self.far, Message({"number": order.fields["number"]} | fields, {}))

    def answering(self, **fields):
        thread = threading.Thread(target=self.answers, kwargs=fields, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def lines():
    return [Line(1), Line(2)]


@pytest.fixture
def crew(lines):
    return Crew([line.hand for line in lines])


def begin(crew, name, own):
    """An order in a thread, whatever becomes of it."""

    def work():
        with contextlib.suppress(ProcessLostError, UserError):
            crew.order(name, {}, {}, own)

    threading.Thread(target=work, daemon=True).start()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int32).reshape(3, 4),
        np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3).T,
        np.array([True, False]),
        np.zeros((0, 5), np.float32),
        np.float32(2.5),
    ],
    ids=["int32", "not contiguous", "bool", "empty", "scalar"],
)
def test_arrays_travel_as_they_are(array):
    near, far = Pipe()
    send(near, Message({"order": "update", "number": 3}, {"first": np.asarray(array), "second": np.zeros(2, bool)}))
    got = receive(far)
    assert got.fields == {"order": "update", "number": 3}
    assert got.arrays["first"].dtype == array.dtype and got.arrays["second"].tolist() == [False, False]
    np.testing.assert_array_equal(got.arrays["first"], array)


def test_an_order_reaches_every_hand_and_own_work_is_its_result(crew, lines):
    threads = [line.answering() for line in lines]
    assert crew.order("update", {"num_micro_batches": 2}, {"tokens": np.ones((2, 3))}, lambda: "mine") == "mine"
    for thread, line in zip(threads, lines, strict=True):
        thread.join(10)
        (order,) = line.orders
        assert order.fields == {"order": "update", "number": 1, "num_micro_batches": 2}
        assert order.arrays["tokens"].shape == (2, 3)


def test_a_hand_that_is_told_of_a_users_mistake_is_named(crew, lines):
    lines[0].answering()
    lines[1].answering(error="cannot write /weights (No space left on device)")
    with pytest.raises(UserError, match="process 2 on machine2: cannot write /weights"):
        crew.order("export", {}, {}, lambda: None)
    assert not crew.lost.done()


def test_own_failure_comes_first_once_the_others_have_answered(crew, lines):
    for line in lines:
        line.answering(error="theirs")

    def fail():
        raise UserError("ours")

    with pytest.raises(UserError, match="ours"):
        crew.order("export", {}, {}, fail)
    for line in lines:  # the replies of that order are not taken for those of the next
        line.answering()
    assert crew.order("update", {}, {}, lambda: 1) == 1


@pytest.mark.parametrize("when", ["while it waits", "in the middle of an order"])
def test_a_closed_line_is_a_lost_process(crew, lines, when):
    if when == "while it waits":
        lines[1].far.close()
        assert "process 2 on machine2 is gone" in str(crew.lost.exception(timeout=10))
        with pytest.raises(ProcessLostError):
            crew.order("update", {}, {}, lambda: None)
        return
    lines[0].answering()

    def own():
        receive(lines[1].far)
        lines[1].far.close()

    with pytest.raises(ProcessLostError, match=r"process 2 on machine2 is gone .*during update"):
        crew.order("update", {}, {}, own)


def test_a_fault_of_a_hand_is_told_while_own_work_still_waits_for_it(crew, lines):
    """Inside a collective nothing ever comes: whoever runs the loop hears it from `lost`."""
    lines[0].answering()
    lines[1].answering(fault="MemoryError: out of memory")
    never = threading.Event()
    begin(crew, "update", never.wait)
    assert "failed with MemoryError: out of memory" in str(crew.lost.exception(timeout=10))
    never.set()


def test_a_mistake_that_leaves_others_waiting_ends_the_run_after_a_while(crew, lines, monkeypatch):
    monkeypatch.setattr(hands, "GRACE_S", 0.2)
    lines[0].answering()
    lines[1].answering(error="no space left")
    never = threading.Event()
    begin(crew, "checkpoint", never.wait)
    assert "no space left" in str(crew.lost.exception(timeout=10))
    never.set()


def test_a_hand_may_ask_for_an_end_at_any_time(crew, lines):
    asked = queue.SimpleQueue()
    crew.on_interrupt = asked.put
    send(lines[0].far, Message({"interrupted": "SIGTERM"}, {}))
    assert asked.get(timeout=10) == "process 1 on machine1 got SIGTERM"


def test_what_fails_in_the_background_of_a_hand_is_kept(crew, lines):
    lines[0].answering(failure="the checkpoint of step 4 could not be written")
    lines[1].answering()
    crew.order("update", {}, {}, lambda: None)
    assert crew.failure == "process 1 on machine1: the checkpoint of step 4 could not be written"


@pytest.mark.parametrize("why", ["", "the disk is full"])
def test_however_it_ends_the_hands_are_told_and_leave_before_the_head(crew, lines, why):
    def leave(line):
        heard.append(receive(line.far).fields)
        time.sleep(0.1)
        left.append(line)
        line.far.close()

    heard, left = [], []
    for line in lines:
        threading.Thread(target=leave, args=(line,), daemon=True).start()
    try:
        with crew:
            if why:
                raise UserError(why)
    except UserError:
        pass
    assert heard == [{"order": "stop", "number": 0, "why": why, "lost": False}] * 2
    assert len(left) == 2 and not crew.lost.done()


def test_when_one_is_lost_nobody_waits_for_the_others(crew, lines):
    began = time.monotonic()
    with contextlib.suppress(ProcessLostError), crew:
        lines[0].far.close()
        crew.lost.exception(timeout=10)
        raise ProcessLostError("process 1 on machine1 is gone")
    assert receive(lines[1].far).fields["lost"]
    assert time.monotonic() - began < hands.LEAVE_S
