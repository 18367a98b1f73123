"""Where a run stands, and the law that every rollout drawn is somewhere.

In: what each step drew and what became of it. Out: `Progress`, kept with every checkpoint as JSON; counts and mean
lengths by class, as metrics and as a table; ConservationError where the counts do not add up.

    drawn = trained + filtered, by reason + quarantined + in flight

`drawn` is counted where problems are drawn, the others where batches are handed over: a rollout that is lost or counted
twice on the way breaks the law.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.loop.groups import Collected, Draw, Group, Position
from nouscoder_jax.types import ConservationError, Experience

FILTERED = tuple(f"filtered/{reason.value}" for reason in DropReason)
CLASSES = ("trained", *FILTERED, "quarantined")
"""What becomes of a rollout that was handed over; those that were not are in flight."""


@dataclass(kw_only=True)
class Progress:
    """Where a run stands, apart from its weights.

    Example:
        Progress(step=8, policy_version=8, next_group_id=160, stream_state={...}, seconds=61.2)
    """

    step: int = 0
    policy_version: int = 0
    """Version that the engine serves; +1 for each update."""
    next_group_id: int = 0
    stream_state: dict[str, Any] | None = None
    pending: list[list[int]] = field(default_factory=list)
    """Draws (group_id, problem_index) that no step has had yet."""
    seconds: float = 0.0
    """Wall seconds of all sessions of the run."""
    best_pass_at_1: list[float] = field(default_factory=list)
    """The best held-out pass@1 so far that have a checkpoint, best first."""
    rollouts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("drawn", *CLASSES), 0))
    """Rollouts so far, by class."""
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    """Their completion tokens, by class."""
    skipped: int = 0
    """Updates so far that were not taken because they were not finite."""
    skipped_in_a_row: int = 0
    """The same since the last update that was taken."""
    waiting: list[int] = field(default_factory=lambda: [0, 0])
    """Of the rollouts in flight, those that are judged and wait for a batch, and their tokens."""

    @property
    def position(self) -> Position:
        """Where drawing stands."""
        pending = tuple(Draw(*draw) for draw in self.pending)
        return Position(next_group_id=self.next_group_id, stream_state=self.stream_state, pending=pending)

    def count(self, collected: Collected, *, group_size: int) -> None:
        """Takes over what became of a step's rollouts, and where drawing stood when they were handed over."""
        for group in collected.groups:
            for experience in group.experiences:
                kind = class_of(experience, group)
                self.rollouts[kind] += 1
                self.tokens[kind] += len(experience.rollout.completion.token_ids)
        self.step = collected.step
        self.stream_state = collected.position.stream_state
        self.next_group_id = collected.position.next_group_id
        self.pending = [list(draw) for draw in collected.position.pending]
        self.waiting = list(collected.waiting)
        self.rollouts["drawn"] = self.next_group_id * group_size
        self.check(in_flight=collected.num_in_flight, group_size=group_size)

    def check(self, *, in_flight: int, group_size: int) -> None:
        """Raises ConservationError where the law is broken, or a resume would not draw again what is in flight."""
        handed_over = sum(self.rollouts[kind] for kind in CLASSES)
        if self.rollouts["drawn"] != handed_over + in_flight or len(self.pending) * group_size != in_flight:
            parts = ", ".join(f"{kind} {self.rollouts[kind]}" for kind in CLASSES)
            raise ConservationError(
                f"step {self.step}: {self.rollouts['drawn']} rollouts were drawn, but {parts} and {in_flight} in "
                f"flight ({len(self.pending) * group_size} of them kept for a resume) make {handed_over + in_flight}; "
                "this is a fault of the program, please report it; checkpoints of earlier steps are as they were"
            )

    def metrics(self, *, group_size: int) -> dict[str, float]:
        """Counts so far and mean lengths, by class."""
        filtered = sum(self.rollouts[kind] for kind in FILTERED)
        counts = self.rollouts | {"filtered": filtered, "in_flight": len(self.pending) * group_size}
        lengths = {
            f"completion_tokens/{kind}": self.tokens[kind] / self.rollouts[kind]
            for kind in CLASSES
            if self.rollouts[kind]
        }
        if self.waiting[0]:
            lengths["completion_tokens/in_flight"] = self.waiting[1] / self.waiting[0]
        return {f"rollouts/{kind}": float(number) for kind, number in counts.items()} | lengths

    def table(self, *, group_size: int) -> Iterator[str]:
        """The law in lines for people: classes, counts, mean lengths."""
        measured = self.metrics(group_size=group_size)
        yield f"rollouts drawn: {self.rollouts['drawn']}"
        for kind in (*CLASSES, "in_flight"):
            if number := int(measured[f"rollouts/{kind}"]):
                length = measured.get(f"completion_tokens/{kind}")
                mean = "not finished" if length is None else f"{length:.1f} tokens on average"
                yield f"  {kind.replace('_', ' '):<24} {number:>8}  {mean}"


def class_of(experience: Experience, group: Group) -> str:
    """What became of a rollout: one of CLASSES."""
    if experience.trainable:
        return "trained"
    if experience.reward is None:
        return "quarantined"
    reason = group.drop_reason or DropReason.OVERLONG  # of a used group, it was cut
    return f"filtered/{reason.value}"
