"""Whether an engine computes what the trainer computes, with weights that are equal for certain.

In: a few fixed token sequences; the trainer's logprobs of them, and an engine's, each with the weights of one version.
Out: how far they are apart; DriftError where that is more than the config allows.

Tokens of a batch show this only where they were drawn with the very weights they are compared with, and ahead of
training none are. A probe is made of each version before a token of it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nouscoder_jax.types import DriftError, Prompt

NUM_SEQUENCES = 8
NUM_TOKENS = 256
"""Of a sequence, at most."""


class Drift(NamedTuple):
    """|trainer's logprob - engine's logprob| over the tokens of a probe, nats; of several servers the worst.

    Example:
        Drift(mean=2e-6, largest=9e-6)
    """

    mean: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Sequences, and what the trainer says of them.

    Example:
        Probe(sequences=((9, 4, 7), ...), logprobs=((-0.7, -2.1), ...), policy_version=3, max_mean=0.05,
              max_largest=0.0)
    """

    sequences: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    """Of each token but a sequence's first, at temperature 1."""
    policy_version: int
    max_mean: float
    """Bound on the mean difference, nats. 0: off."""
    max_largest: float
    """Bound on the largest. 0: off."""

    def compare(self, logprobs: Sequence[Sequence[float]], *, who: str) -> Drift:
        """How far the same logprobs of `who` are from the trainer's. Raises DriftError: over a bound, or not finite."""
        pairs = zip(self.logprobs, logprobs, strict=True)
        apart = [np.abs(np.subtract(ours, theirs, dtype=np.float64)) for ours, theirs in pairs]
        together = np.concatenate(apart)
        drift = Drift(mean=float(together.mean()), largest=float(together.max()))
        fits = (not self.max_mean or drift.mean <= self.max_mean) and (
            not self.max_largest or drift.largest <= self.max_largest
        )
        if fits and np.isfinite(drift.mean):
            return drift
        worst = max(range(len(apart)), key=lambda index: float(np.nan_to_num(apart[index], nan=np.inf).max()))
        raise DriftError(
            f"{who} and the trainer both have policy version {self.policy_version}, yet their logprobs of "
            f"{len(self.sequences)} fixed sequences differ by {drift.mean:.3g} nats on average (loss.max_drift_mean "
            f"{self.max_mean or 'off'}) and by {drift.largest:.3g} at most (loss.max_drift "
            f"{self.max_largest or 'off'}), most in sequence {worst}; no token of this version was trained on. See "
            "that dtype, attention and rope of the engine are the config's, or raise the bounds"
        )


def pick_sequences(prompts: Iterable[Prompt]) -> tuple[tuple[int, ...], ...]:
    """The beginnings of the first prompts that are more than one token long."""
    found = (prompt.token_ids[:NUM_TOKENS] for prompt in prompts if len(prompt.token_ids) > 1)
    return tuple(sequence for sequence, _ in zip(found, range(NUM_SEQUENCES), strict=False))
