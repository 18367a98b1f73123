"""A completion that is made of pieces.

In: a prompt and a Sampling, the pieces that one request after another brings. Out: the Completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nouscoder_jax.rollout.sglang_calls import Piece
from nouscoder_jax.types import Completion, Prompt, Sampling, VersionSpan


@dataclass(slots=True, kw_only=True)
class Draft:
    """A completion as far as it has come, and what went wrong on the way.

    Example:
        draft = Draft(prompt=prompt, sampling=sampling)
        draft.add(piece, {"3@9f86d081884c7d65": 3})
        draft.finish, draft.num_left  # ("abort", 110): to be continued
    """

    prompt: Prompt
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    behavior_logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)
    """Over all tokens so far; neighbours are of different versions."""
    finish: Literal["stop", "length", "abort"] = "abort"
    """abort: more pieces are needed."""
    refusals: list[str] = field(default_factory=list)
    timeouts: list[str] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        """Tokens that the next piece may have."""
        return self.sampling.max_completion_tokens - len(self.token_ids)

    def add(self, piece: Piece, versions: Mapping[str, int]) -> None:
        """Appends a piece; `versions` knows the policy version of every name of weights in it."""
        start = len(self.token_ids)
        for name, first, end in piece.spans:
            if first == end:
                continue
            span = VersionSpan(versions[name], start + first, start + end)
            if self.spans and self.spans[-1].policy_version == span.policy_version:
                span = span._replace(start=self.spans.pop().start)
            self.spans.append(span)
        self.token_ids += piece.token_ids
        self.behavior_logprobs += piece.behavior_logprobs
        self.finish = piece.finish if self.num_left or piece.finish == "stop" else "length"

    def completion(self) -> Completion:
        """What the engine returns, once `finish` is not abort."""
        return Completion(
            token_ids=tuple(self.token_ids),
            behavior_logprobs=tuple(self.behavior_logprobs),
            finish_reason=self.finish,
            policy_version=min(span.policy_version for span in self.spans),
            spans=tuple(self.spans) if len(self.spans) > 1 else (),
        )
