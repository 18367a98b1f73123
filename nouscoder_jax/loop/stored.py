"""What a run keeps of its rollouts: a line each, written and read back.

In: experiences; a run's folder. Out: lines for it; `StoredStep`. Tokens are not kept, so the completions that come back
have none. Does not import jax.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from nouscoder_jax.config import UserError
from nouscoder_jax.experience.filters import DropReason
from nouscoder_jax.run_folder import RunFolder
from nouscoder_jax.types import Completion, Experience, Outcome, Prompt, Rollout, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """One rollout and what was made of it.

    Example:
        StoredRollout(rollout=Rollout(...), verdict=Verdict(...), reward=1.0, advantage=0.7)
    """

    rollout: Rollout
    verdict: Verdict | None
    """None: the judge failed, or the engine gave the completion up (finish_reason abort)."""
    reward: float | None
    advantage: float

    @property
    def is_aborted(self) -> bool:
        """Whether the engine gave it up: it was never judged, and is not now."""
        return self.rollout.completion.finish_reason == "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """What one step drew.

    Example:
        StoredStep(step=3, groups=((StoredRollout(...), ...), ...), unreadable=Counter(), num_incomplete=0)
    """

    step: int
    groups: tuple[tuple[StoredRollout, ...], ...]
    """Whole groups, in the order in which they were drawn, each in the order of its samples."""
    unreadable: Counter[str]
    """Why lines could not be used -> how many."""
    num_incomplete: int
    """Rollouts of groups that lack some; nothing can be said about their advantages."""

    @property
    def rollouts(self) -> list[StoredRollout]:
        """All of them."""
        return [rollout for group in self.groups for rollout in group]


def rollout_line(step: int, experience: Experience, drop_reason: DropReason | None) -> dict[str, Any]:
    """One rollout as it is kept: enough to judge it again and to say what became of it.

    `drop_reason`: why its group was not trained on; None where it was.
    """
    return sample_line(step, experience.rollout, experience.verdict) | {
        "reward": experience.reward,
        "advantage": experience.advantage,
        "drop_reason": drop_reason.value if drop_reason else None,
        "trained": experience.trainable,
    }


def sample_line(step: int, rollout: Rollout, verdict: Verdict | None) -> dict[str, Any]:
    """One completion as it is kept, in training or held-out: what was asked, what came, what the judge said."""
    return {
        "step": step,
        "group_id": rollout.group_id,
        "sample_index": rollout.sample_index,
        "problem_id": rollout.prompt.problem_id,
        "prompt": rollout.prompt.text,
        "policy_version": rollout.completion.policy_version,
        "finish_reason": rollout.completion.finish_reason,
        "num_tokens": len(rollout.completion.token_ids),
        "version_spans": [list(span) for span in rollout.completion.spans],
        "text": rollout.text,
        "program": rollout.program,
        "rules_differ": rollout.rules_differ,
        "verdict": None
        if verdict is None
        else {
            "outcome": verdict.outcome.value,
            "tests_passed": verdict.tests_passed,
            "tests_total": verdict.tests_total,
            "cpu_s": round(verdict.cpu_s, 4),
            "peak_memory_mib": round(verdict.peak_memory_mib, 1),
            "detail": verdict.detail,
            "failed_test": verdict.failed_test,
            "got": verdict.got,
        },
    }


def stored_steps(folder: RunFolder, *, first: int, last: int | None) -> list[int]:
    """Steps `first` to `last` (None: the newest) that have rollouts, in order. Raises UserError: there are none."""
    found = folder.rollout_steps()
    if not found:
        raise UserError(
            f"{folder.path} holds no rollouts (rollouts/step-NNNNNN.jsonl); give a run that has done a step"
        )
    steps = [step for step in found if first <= step and (last is None or step <= last)]
    if not steps:
        raise UserError(
            f"{folder.path} holds rollouts of steps {min(found)} to {max(found)}, none of "
            f"{first} to {'the newest' if last is None else last}; give other --steps"
        )
    return steps


def read_step(folder: RunFolder, step: int, *, group_size: int) -> StoredStep:
    """What is kept of one step. Lines that cannot be used are counted, not raised."""
    unreadable: Counter[str] = Counter()
    groups: dict[int, dict[int, StoredRollout]] = {}
    for line in folder.rollouts_of(step).read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            rollout = _rollout(json.loads(line))
        except KeyError as error:
            unreadable[f"no field {error}"] += 1
        except (ValueError, TypeError) as error:
            unreadable["cut off" if isinstance(error, json.JSONDecodeError) else "a field of another kind"] += 1
        else:
            members = groups.setdefault(rollout.rollout.group_id, {})
            members[rollout.rollout.sample_index] = rollout
    whole = [
        tuple(rollouts[index] for index in sorted(rollouts))
        for _, rollouts in sorted(groups.items())
        if len(rollouts) == group_size
    ]
    num_incomplete = sum(len(rollouts) for rollouts in groups.values() if len(rollouts) != group_size)
    return StoredStep(step=step, groups=tuple(whole), unreadable=unreadable, num_incomplete=num_incomplete)


def _rollout(line: dict[str, Any]) -> StoredRollout:
    verdict, program = line["verdict"], line["program"]
    if not isinstance(program, str | None):
        raise TypeError
    completion = Completion(
        token_ids=(),
        behavior_logprobs=(),
        finish_reason=line["finish_reason"],
        policy_version=line["policy_version"],
    )
    rollout = Rollout(
        group_id=int(line["group_id"]),
        sample_index=int(line["sample_index"]),
        prompt=Prompt(problem_id=line["problem_id"], token_ids=()),
        completion=completion,
        text="",
        program=program,
    )
    return StoredRollout(
        rollout=rollout,
        verdict=None if verdict is None else Verdict(**verdict | {"outcome": Outcome(verdict["outcome"])}),
        reward=line["reward"],
        advantage=float(line["advantage"]),
    )
