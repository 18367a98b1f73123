"""A line on how far something is, where there is no terminal: not too often, and as it is."""

import pytest

from nouscoder_jax.metrics import status


@pytest.fixture
def clock(monkeypatch):
    """The time, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_every_ten_seconds(clock, capsys):
    with status.status("begins") as say:
        for clock[0] in (0.0, 9.0, 10.0, 19.0, 20.5, 21.0):
            say(f"[{clock[0]}] of 30")
    assert capsys.readouterr().err.splitlines() == ["[10.0] of 30", "[20.5] of 30"]


def test_what_is_short_says_nothing(clock, capsys):
    with status.status("begins") as say:
        say("done")
    assert capsys.readouterr() == ("", "")
