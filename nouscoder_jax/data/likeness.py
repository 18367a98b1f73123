"""Problems that are like one another: the same statement in two sets, a training problem out of the held-out set.

In: Problem, one after another. Out: the id of one that it is like, and how much. Statements are compared as words,
without markup, marks and capitals.

    the same words          1
    nearly the same words   the share of sequences of 5 words that two statements have in common, as MinHash estimates
                            it (datasketch)
    of the held-out set     the share of the held-out statement's sequences of 10 words that the other has too, without
                            those that several held-out statements have; or the same address, or the same title of the
                            same platform
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nouscoder_jax.config import UserError
from nouscoder_jax.types import Problem

_WORD = re.compile(r"[^\W_]+")
_MARKUP = re.compile(r"<[^<>]{0,80}>|\\[a-zA-Z]+")
_NEAR_WORDS, _OVERLAP_WORDS = 5, 10
_PERMUTATIONS = 128
"""Of MinHash: its estimate is off by about 1 / sqrt(128) = 0.09."""
_FINEST = 0.95
"""The largest threshold that the index takes; what it finds is compared with the one asked for."""
_SHARED_BY = 3
"""A sequence that so many held-out statements have is a set phrase and tells nothing."""
OVERLAP = 0.3
"""From this share on a problem is one of the held-out set."""


class Likeness(NamedTuple):
    """The problem that another one is like.

    Example:
        Likeness(problem_id="taco/0123456789abcdef", share=0.93, same=False)
    """

    problem_id: str
    share: float
    """Of word sequences in common; an estimate may be 1 for statements that are not the same."""
    same: bool


class Statements:
    """The statements that are kept so far."""

    def __init__(self, threshold: float) -> None:
        """`threshold`: from which share on two statements are nearly the same. Raises UserError: no datasketch."""
        try:
            import datasketch  # here, not above: it is of the extra `data`
        except ModuleNotFoundError as error:
            raise UserError("finding near duplicates needs datasketch: pip install 'nouscoder-jax[data]'") from error
        self._threshold, self._new = threshold, datasketch.MinHash
        self._same: dict[bytes, str] = {}
        self._near = datasketch.MinHashLSH(threshold=min(threshold, _FINEST), num_perm=_PERMUTATIONS)
        self._hashes: dict[str, datasketch.MinHash] = {}

    def find(self, problem: Problem) -> Likeness | None:
        """One that the problem is like; the most alike, where there are several."""
        words = _words(problem.statement)
        if not words:
            return None
        if (same := self._same.get(_digest(words))) is not None:
            return Likeness(same, 1.0, True)
        own = self._hash(words)
        found = [Likeness(str(other), own.jaccard(self._hashes[str(other)]), False) for other in self._near.query(own)]
        best = max(found, key=lambda likeness: likeness.share, default=None)
        return best if best is not None and best.share >= self._threshold else None

    def add(self, problem: Problem) -> None:
        """From here on others are compared with it too."""
        words = _words(problem.statement)
        if not words:  # of a set without statements: nothing to compare
            return
        self._same[_digest(words)] = problem.problem_id
        self._hashes[problem.problem_id] = self._hash(words)
        self._near.insert(problem.problem_id, self._hashes[problem.problem_id])

    def _hash(self, words: list[str]):
        own = self._new(num_perm=_PERMUTATIONS)
        own.update_batch([sequence.encode() for sequence in _sequences(words, _NEAR_WORDS)])
        return own


class HeldOut:
    """The statements of a held-out set, which training must not have."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._sequences: dict[str, set[str]] = {}
        self._addresses: dict[str, str] = {}
        self._titles: dict[tuple[str, str], str] = {}
        everywhere: Counter[str] = Counter()
        for problem in problems:
            words = _words(problem.statement)
            own = set(_sequences(words, _OVERLAP_WORDS)) if words else set()
            everywhere.update(own)
            self._sequences[problem.problem_id] = own
            if problem.url:
                self._addresses[problem.url.rstrip("/")] = problem.problem_id
            if problem.platform and len(_words(problem.title)) > 1:
                self._titles[problem.platform.lower(), " ".join(_words(problem.title))] = problem.problem_id
        self._of: dict[str, list[str]] = {}
        for problem_id, own in self._sequences.items():
            own -= {sequence for sequence in own if everywhere[sequence] >= _SHARED_BY}
            for sequence in own:
                self._of.setdefault(sequence, []).append(problem_id)

    def find(self, problem: Problem) -> Likeness | None:
        """The held-out problem that this one is, or says; None where there is none."""
        same = self._addresses.get(problem.url.rstrip("/")) if problem.url else None
        same = same or self._titles.get((problem.platform.lower(), " ".join(_words(problem.title))))
        if same is not None:
            return Likeness(same, 1.0, True)
        counts: Counter[str] = Counter()
        for sequence in set(_sequences(_words(problem.statement), _OVERLAP_WORDS)):
            counts.update(self._of.get(sequence, ()))
        shares = [Likeness(one, count / len(self._sequences[one]), False) for one, count in counts.items()]
        best = max(shares, key=lambda likeness: likeness.share, default=None)
        return best if best is not None and best.share >= OVERLAP else None


def _words(text: str) -> list[str]:
    return _WORD.findall(_MARKUP.sub(" ", html.unescape(text)).lower())


def _digest(words: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sequences(words: list[str], length: int) -> list[str]:
    """Every sequence of so many words; all words as one where there are fewer."""
    return [" ".join(words[place : place + length]) for place in range(max(1, len(words) - length + 1))]
